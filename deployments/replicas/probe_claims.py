"""Which routes probe an ejected replica for all adapters of its application: a few, not one for each."""

from __future__ import annotations

import asyncio

MAX_CLAIMS = 3  # of a replica; more than one, since with one adapter the replica may hang or fail


class ProbeClaims:
    """A claim ends with the task that probes, or when the task gives it up."""

    def __init__(self) -> None:
        self._tasks: dict[str, set[asyncio.Task[None]]] = {}  # by replica

    def are_taken(self, replica: str) -> bool:
        return len(self._tasks.get(replica, ())) >= MAX_CLAIMS

    def take(self, replica: str, task: asyncio.Task[None]) -> None:
        self._tasks.setdefault(replica, set()).add(task)
        task.add_done_callback(lambda _: self.give_up(replica, task))

    def give_up(self, replica: str, task: asyncio.Task[None] | None) -> None:
        """Has no effect if the task has no claim."""
        tasks = self._tasks.get(replica, set())
        tasks -= {task}
        if not tasks:
            self._tasks.pop(replica, None)
