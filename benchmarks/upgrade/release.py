"""The code of another release, as a folder for PYTHONPATH."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from io import BytesIO
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
# What a later release may add: a field in the middle of each class.
_ADDED = {
    "experts/engine/request.py": ('    written: str = ""\n', "    later: int = 0\n"),
    "experts/engine/chunk.py": ("    tokenizer: str | None = None\n", "    energy_j: float = 0.0\n"),
}


def other_release(folder: Path, revision: str | None) -> Path:
    """The packages of the wheel of a git revision, in `folder`. None: this tree with fields of a later one.

    Raises RuntimeError if git or pip fails, or if this tree has no place for the fields.
    """
    source, code = folder / "source", folder / "code"
    archive = _output("git", "-C", str(REPOSITORY), "archive", revision or "HEAD")
    with tarfile.open(fileobj=BytesIO(archive)) as files:
        files.extractall(source, filter="data")
    if revision is None:
        _add_fields(source)
    _output(sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as packages:
        packages.extractall(code)
    return code


def _add_fields(source: Path) -> None:
    for name, (before, added) in _ADDED.items():
        path = source / name
        text = path.read_text(encoding="utf-8")
        if text.count(before) != 1:
            raise RuntimeError(f"{name}: no place for a field before {before.strip()!r}")
        path.write_text(text.replace(before, added + before), encoding="utf-8")


def _output(*command: str) -> bytes:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
