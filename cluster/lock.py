"""A lock between processes of this machine that the kernel gives back whatever happens to its holder."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path


class LockHeld(Exception):
    """Another process has it; the text says which, and since when."""


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock on `path`, whose folder is made. Raises LockHeld at once where another process does."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise LockHeld(lock.read().strip() or "another process") from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()}, since {datetime.now():%H:%M:%S}")
        lock.flush()
        yield
