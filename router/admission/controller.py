"""Admission control: a call gets a slot at its model, waits for one in a fair queue, or is refused."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from router.admission.context import AdmissionContext
from router.admission.fair_queue import FairQueue, Ticket
from router.admission.waiting_calls import WaitingCalls
from router.clock import now_s
from router.errors import Overloaded

CAPACITY_POLL_S = 0.02  # how soon waiting calls get new slots, if none is released meanwhile
MAX_RETRY_AFTER_S = 60


class Admission:
    """A fair queue in front of each application; `WaitingCalls` is the order. All queues share one bound.

    When there is no more room to wait, the API key with the most waiting calls gives way, of those that are
    served last. A call of an answer that has output never waits, but it takes a slot. All decisions are
    synchronous, on one event loop.
    """

    def __init__(
        self, num_slots: Callable[[str], int], max_slots: Callable[[str], int] | None = None
    ) -> None:
        """Both functions are those of `ModelAvailability`, and are called at every decision, since replicas
        come and go. Without `max_slots`, `num_slots` is the maximum too."""
        self._num_slots_of = num_slots
        self._max_slots_of = max_slots or num_slots
        self._queues: dict[str, FairQueue] = {}
        # All queues together, and the calls that wait for a model to start.
        self._waiting: WaitingCalls[Ticket] = WaitingCalls()
        self._poll_timer: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return sum(queue.num_running for queue in self._queues.values())

    def load(self) -> dict[str, dict[str, float | None]]:
        """The load of each recently called application. `mean_hold_s`: seconds; None before a call ended."""
        return {
            name: {
                "num_running": queue.num_running,
                "num_waiting": len(queue.waiting),
                "mean_hold_s": queue.mean_hold_s,
            }
            for name, queue in self._queues.items()
        }

    def longest_waits_s(self) -> dict[str, float]:
        """How long a call of each recently called application would wait now, behind all calls that wait."""
        return {name: queue.longest_wait_s(self._most_slots(queue)) for name, queue in self._queues.items()}

    @asynccontextmanager
    async def slot(
        self, model: str, app: str, context: AdmissionContext, *, has_output: bool, left_s: float
    ) -> AsyncIterator[None]:
        """Hold one of the application's slots while the block runs.

        With `has_output` the call does not wait. `left_s` is the time until the answer's deadline; the call
        waits for `context.wait_limit_s` at most.

        Raises, on entering the block:
            Overloaded: the wait would be or was too long, or too many calls wait already.
        """
        queue = self._queue(app)
        self._admit(queue)
        if has_output:
            queue.num_running += 1
        else:
            await self._take_slot(Ticket(queue, context, model), left_s)
        context.admitted_apps.add(app)
        began_s = now_s()
        try:
            yield
        finally:
            queue.ended(began_s)
            self._admit(queue)

    @asynccontextmanager
    async def waiting_for_start(self, model: str, app: str, context: AdmissionContext) -> AsyncIterator[None]:
        """Count a call as waiting while the block runs: its model has not started yet.

        Raises, on entering or within the block:
            Overloaded: too many calls wait already, or this one has to give way to another.
        """
        ticket = Ticket(self._queue(app), context, model)
        self._make_room(ticket)
        self._waiting.add(ticket)
        try:
            async with asyncio.timeout(None) as scope:
                ticket.outcome.add_done_callback(lambda _: _expire(scope))
                yield
        except TimeoutError:
            if ticket.outcome.done() and (refusal := ticket.outcome.result()):
                raise refusal from None
            raise
        finally:
            self._remove(ticket)

    def admit_waiting(self) -> None:
        """Give every free slot to a waiting call. While calls wait, a timer does this regularly."""
        for queue in self._queues.values():
            self._admit(queue)

    async def _take_slot(self, ticket: Ticket, left_s: float) -> None:
        """Return once the ticket has a slot; by then the call counts as running."""
        queue, context = ticket.queue, ticket.context
        if queue.num_running < self._num_slots(queue):
            queue.num_running += 1
            return
        estimate_s = self._estimate_s(ticket)
        if estimate_s > context.wait_limit_s(queue.name, left_s):
            # An early 429 beats a late one: the client can go elsewhere.
            raise _refusal(ticket.model, estimate_s, f"the wait would be about {estimate_s:.0f} s")
        self._make_room(ticket)
        await self._wait(ticket, left_s)

    async def _wait(self, ticket: Ticket, left_s: float) -> None:
        ticket.queue.waiting.add(ticket)
        self._waiting.add(ticket)
        expiry = asyncio.create_task(self._refuse_in_time(ticket, left_s))
        try:
            if self._poll_timer is None:
                self._poll_capacity()
            refusal = await ticket.outcome
        except asyncio.CancelledError:
            if not ticket.outcome.cancelled() and ticket.outcome.result() is None:
                # The slot was granted just as the client left: give it to the next call.
                ticket.queue.num_running -= 1
                self._admit(ticket.queue)
            raise
        finally:
            expiry.cancel()
            self._remove(ticket)
        if refusal is not None:
            raise refusal

    async def _refuse_in_time(self, ticket: Ticket, left_s: float) -> None:
        """Refuse the call once its limit is over. The limit grows if another choice gets a slot meanwhile."""
        began_s, waited_s = now_s(), 0.0
        while (limit_s := ticket.context.wait_limit_s(ticket.queue.name, left_s)) > waited_s:
            await asyncio.sleep(limit_s - waited_s)
            waited_s = max(limit_s, now_s() - began_s)
        self._refuse(ticket, f"no slot was released within {limit_s:g} s")

    def _admit(self, queue: FairQueue) -> None:
        num_slots = self._num_slots(queue)
        while queue.num_running < num_slots and (ticket := queue.waiting.take()):
            self._waiting.remove(ticket)
            queue.num_running += 1
            ticket.outcome.set_result(None)

    def _make_room(self, ticket: Ticket) -> None:
        """Refuse another call if too many wait. Raises Overloaded if this call is the one to refuse."""
        context = ticket.context
        if self.num_waiting < context.max_waiting:
            return
        evicted = self._waiting.to_evict(context)
        if evicted is None:
            reason = f"{self.num_waiting} answers are waiting already"
            raise _refusal(ticket.model, self._estimate_s(ticket), reason)
        self._refuse(evicted, _why_evicted(evicted.context, context))

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        self._admit(ticket.queue)
        self._remove(ticket)
        if not ticket.outcome.done():
            ticket.outcome.set_result(_refusal(ticket.model, self._estimate_s(ticket), reason))

    def _remove(self, ticket: Ticket) -> None:
        ticket.queue.waiting.remove(ticket)
        self._waiting.remove(ticket)

    def _estimate_s(self, ticket: Ticket) -> float:
        return ticket.queue.wait_s(ticket.context, self._most_slots(ticket.queue))

    def _most_slots(self, queue: FairQueue) -> int:
        """That there can be: as a burst begins, replicas have accepted few of its calls yet."""
        return max(self._num_slots(queue), self._max_slots_of(queue.name))

    def _num_slots(self, queue: FairQueue) -> int:
        # At least one: calls that wait for a removed model must get through, to fail with the right error.
        return max(1, self._num_slots_of(queue.name))

    def _queue(self, app: str) -> FairQueue:
        if app not in self._queues:  # new names are rare, so old queues are dropped here
            self._queues = {name: queue for name, queue in self._queues.items() if queue.is_in_use()}
            self._queues[app] = FairQueue(app, now_s())
        return self._queues[app]

    def _poll_capacity(self) -> None:
        later = asyncio.get_running_loop().call_later
        self._poll_timer = later(CAPACITY_POLL_S, self._poll_capacity) if self.num_waiting else None
        self.admit_waiting()


def _refusal(model: str, estimate_s: float, reason: str) -> Overloaded:
    retry_after_s = max(1, math.ceil(min(estimate_s, MAX_RETRY_AFTER_S)))
    return Overloaded(f"{model} is busy: {reason}; try again in {retry_after_s} s", retry_after_s)


def _why_evicted(evicted: AdmissionContext, newcomer: AdmissionContext) -> str:
    if evicted.key_priority > newcomer.key_priority:
        return "too many answers wait, and those of other API keys go first"
    owner = "this request" if evicted.key == newcomer.key else "your API key"
    return f"{owner} has the most answers waiting"


def _expire(scope: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the block has just ended
        scope.reschedule(now_s())
