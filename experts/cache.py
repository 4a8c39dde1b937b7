"""Folders that this machine's processes make once and then share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

CACHE_VARIABLE = "ETR_CACHE_DIR"


def cache_dir() -> Path:
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/etr").expanduser().absolute()


def make_once(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder`, the only one in its parent, unless it is there. If several callers ask for the same one,
    in this process or in others, one calls `fill` with the folder to write to, and the rest wait.

    `folder` is never incomplete, whatever `fill` raises. Raises OSError.
    """
    if folder.is_dir():
        return
    lock = folder.parent.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):  # freed with the process, so a process that was killed blocks no other
        if not folder.is_dir():
            _make(folder, fill)


def _make(folder: Path, fill: Callable[[Path], None]) -> None:
    partial = folder.parent.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    try:
        (partial / folder.name).mkdir(parents=True)
        fill(partial / folder.name)
        partial.rename(folder.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
