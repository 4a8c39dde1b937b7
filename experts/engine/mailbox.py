"""What the sampling process decided for a request, left where the engine's own process finds it.

A token id says that the answer ends, not which expert goes on with what probability. The decision is on this
host's memory before the token leaves the sampling process, so who holds the token need not wait for it.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import weakref
from dataclasses import asdict, dataclass
from pathlib import Path

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True)
class Decided:
    """At token number `step` of an answer: who takes over, or what a probe asked for."""

    step: int
    expert: str | None
    probability: float | None
    distribution: dict[str, float] | None


class Mailbox:
    """One file for each request that has something to say, under the request's own `key`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls) -> Mailbox:
        """In memory where the host offers some; only this user can read it."""
        parent = _SHARED_MEMORY if os.access(_SHARED_MEMORY, os.W_OK) else None
        mailbox = cls(Path(tempfile.mkdtemp(prefix="etr-engine-", dir=parent)))
        # Memory that outlives its process: also where nobody lives to call `remove`.
        weakref.finalize(mailbox, shutil.rmtree, mailbox.folder, ignore_errors=True)
        return mailbox

    def post(self, key: str, decided: Decided) -> None:
        (self.folder / key).write_text(json.dumps(asdict(decided)), encoding="utf-8")

    def take(self, key: str) -> Decided | None:
        """None if nothing was decided."""
        try:
            text = (self.folder / key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        (self.folder / key).unlink(missing_ok=True)
        return Decided(**json.loads(text))

    def clear(self) -> None:
        """Removes what nobody came for: a cancelled request may still have been decided."""
        for left in self.folder.iterdir():
            left.unlink(missing_ok=True)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
