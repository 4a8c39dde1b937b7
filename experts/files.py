"""Files that other processes read while they are written."""

from __future__ import annotations

import os
import secrets
from contextlib import ExitStack
from pathlib import Path
from stat import S_IMODE


def write_atomic(path: Path, data: bytes, mode: int | None = None) -> None:
    """Replaces the content of `path`; a reader, or a crash, leaves the old file or the new one, never a part.

    `mode`: permissions of the new file. None keeps those of the file that is there, or else applies the
    umask. A link is replaced by a file; pass `path.resolve()` to write to its target. The folder must exist.
    Raises OSError, and then leaves no temporary file behind.
    """
    with ExitStack() as cleanup:
        staged = stage_file(path, data, mode)
        cleanup.callback(staged.unlink, missing_ok=True)
        staged.replace(path)


def stage_file(path: Path, data: bytes, mode: int | None = None) -> Path:
    """Writes `data` to a temporary file beside `path`, ready to replace it. See `write_atomic`."""
    staged = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    if mode is None and path.exists():
        mode = S_IMODE(path.stat().st_mode)
    with ExitStack() as cleanup:
        # Private from the first byte: a reader must not get at a secret before its mode is set.
        descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600)
        cleanup.callback(staged.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            if mode is not None:
                os.fchmod(descriptor, mode)
            file.write(data)
        cleanup.pop_all()
    return staged
