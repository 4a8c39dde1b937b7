"""A lock between processes of one machine. The kernel releases it when the process that holds it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout


class LockHeld(Exception):
    """Another process holds the lock; the text says which one and since when."""


@contextmanager
def exclusive(path: Path, *, timeout_s: float = 0.0) -> Iterator[None]:
    """Hold the lock on the file `path`, which is not deleted; its folder is created if missing.

    Raises:
        LockHeld: another process still holds the lock after `timeout_s`.
        OSError: the lock file cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout_s):
            path.write_text(f"process {os.getpid()}, since {datetime.now():%H:%M:%S}", encoding="utf-8")
            yield
    except Timeout as error:
        raise LockHeld(path.read_text(encoding="utf-8").strip() or "another process") from error
