"""Runs clients that are commands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path


def run(*command: str | Path, folder: Path) -> str:
    """What the command printed. It runs in `folder`, and has to succeed."""
    result = subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"HF_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout
