"""Finds replicas that answer, but with errors: more of their last calls failed than the rules permit."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from router.outlier_rules import OutlierRules


class ErrorRate:
    """The last calls of each replica, and which replicas are set aside for their errors, and until when.

    `rules` may be replaced at any time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.rules = OutlierRules()
        self._clock = clock
        self._failures: dict[str, deque[bool]] = {}  # whether each of the last calls failed
        self._until_s: dict[str, float] = {}

    def ended(self, replica: str, *, failed: bool) -> None:
        """A call was answered to its end, or the engine of the replica failed."""
        if self.is_set_aside(replica):  # its calls began before
            return
        last = self._failures.get(replica)
        if last is None or last.maxlen != self.rules.num_calls:
            last = self._failures[replica] = deque(last or (), self.rules.num_calls)
        last.append(failed)

    def is_outlier(self, replica: str, num_running: int) -> bool:
        """Whether to set the replica aside: it fails too often, and enough others are left."""
        last = self._failures.get(replica, ())
        if self.is_set_aside(replica) or len(last) < self.rules.num_calls:
            return False
        num_aside = sum(self.is_set_aside(other) for other in self._until_s)
        is_room = num_aside + 1 <= self.rules.max_share_aside * num_running
        return is_room and sum(last) > self.rules.error_share * len(last)

    def set_aside(self, replica: str) -> None:
        self._until_s[replica] = self._clock() + self.rules.aside_s
        self._failures.pop(replica, None)

    def is_set_aside(self, replica: str) -> bool:
        return self._until_s.get(replica, 0.0) > self._clock()

    def keep(self, replicas: frozenset[str]) -> None:
        """Forget all other replicas."""
        self._failures = {name: last for name, last in self._failures.items() if name in replicas}
        self._until_s = {name: until_s for name, until_s in self._until_s.items() if name in replicas}
