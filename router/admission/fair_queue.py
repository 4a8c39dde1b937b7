"""The queue in front of one application: the calls that wait for a slot, and how long that takes."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from router.admission.context import AdmissionContext
from router.admission.waiting_calls import WaitingCalls
from router.clock import now_s
from router.errors import Overloaded

EWMA_ALPHA = 0.1  # the weight of the latest call in the mean time of a call
IDLE_QUEUE_TTL_S = 600.0  # a queue without calls for this long is dropped, with its measurements


@dataclass(slots=True, eq=False)
class Ticket:
    """One waiting call. `model` is the one it waits for: several may share the slots of an application.

    `outcome` is None once the call has a slot, or the error that refuses it.
    """

    queue: FairQueue
    context: AdmissionContext
    model: str
    outcome: asyncio.Future[Overloaded | None] = field(default_factory=asyncio.Future)


@dataclass(slots=True)
class FairQueue:
    """The calls of one application: those that wait for a slot and those that hold one.

    `mean_hold_s` is how long a call holds its slot: a moving average, None before the first call has ended.
    """

    name: str
    used_at_s: float
    num_running: int = 0
    waiting: WaitingCalls[Ticket] = field(default_factory=WaitingCalls)
    mean_hold_s: float | None = None

    def ended(self, began_s: float) -> None:
        """A call gives back the slot that it has held since `began_s`."""
        self.num_running -= 1
        self.used_at_s = now_s()
        held_s = self.used_at_s - began_s
        mean_s = held_s if self.mean_hold_s is None else self.mean_hold_s
        self.mean_hold_s = mean_s + EWMA_ALPHA * (held_s - mean_s)

    def wait_s(self, context: AdmissionContext, num_slots: int) -> float:
        """Estimate how long a call of this request that arrives now waits for one of `num_slots` slots.

        That is the time until every call before it has got a slot; if more calls run than there are slots,
        the surplus has to end first. It is 0 if a slot is free or nothing is known yet.
        """
        return self._wait_s(self.waiting.num_before(context), num_slots)

    def longest_wait_s(self, num_slots: int) -> float:
        """The same for a call whose turn comes after those of all calls that wait."""
        return self._wait_s(len(self.waiting), num_slots)

    def _wait_s(self, num_before: int, num_slots: int) -> float:
        num_ends = num_before + self.num_running - num_slots + 1
        return max(0, num_ends) * (self.mean_hold_s or 0.0) / num_slots

    def is_in_use(self) -> bool:
        return self.num_running > 0 or len(self.waiting) > 0 or now_s() - self.used_at_s < IDLE_QUEUE_TTL_S
