"""The project as users install it: a wheel in an environment of its own, without the working tree."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def install(folder: Path) -> Path:
    """Build the wheel and install it. Returns the environment, which works at this path only.

    The dependencies are those of this Python. A `.pth` file adds their folder, and Python does not follow the
    `.pth` files there, so an editable installation of the project stays invisible.

    Raises RuntimeError if pip fails (it may have to fetch the build backend), or if the hosts cannot see this
    Python's libraries.
    """
    if sysconfig.get_path("purelib").startswith("/tmp/"):
        raise RuntimeError("hosts have a /tmp of their own; create the virtual environment elsewhere")
    environment = folder / "environment"
    venv.create(environment, symlinks=True)
    packages = sysconfig.get_path("purelib", vars={"base": str(environment)})
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(REPOSITORY))
    (wheel,) = folder.glob("*.whl")
    _pip("--python", str(environment / "bin" / "python"), "install", "--no-deps", "--no-index", str(wheel))
    return environment


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pip {arguments[0]} failed: {done.stderr.strip()}")
