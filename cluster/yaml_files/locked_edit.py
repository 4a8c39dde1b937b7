"""Change a text file: one process at a time, and readers see the old text or the new one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cluster.errors import ConfigError
from cluster.hidden_folder import hidden_folder
from cluster.process_lock import LockHeld, exclusive
from experts.files import write_atomic

LOCK_TIMEOUT_S = 10.0


def edit_file(path: Path, edit: Callable[[], str], mode: int | None = None) -> None:
    """Replace the text of `path` by what `edit` returns, which reads the file while no other edit can.

    `mode`: permissions of the file; None keeps those that it has. A link stays a link.

    Raises:
        ConfigError: the file cannot be written, or another edit of it takes too long.
    """
    target = path.resolve()
    try:
        with exclusive(hidden_folder(target.parent) / f"{target.name}.lock", timeout_s=LOCK_TIMEOUT_S):
            write_atomic(target, edit().encode(), mode)
    except LockHeld as error:
        raise ConfigError([f"{path}: is being changed by {error}; try again"]) from error
    except OSError as error:
        raise ConfigError(
            [f"{path}: cannot be written: {error.strerror}; make its folder writable"]
        ) from error
