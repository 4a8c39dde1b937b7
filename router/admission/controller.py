"""Admission control: a call gets a slot at its model, waits for one in a fair queue, or is refused early."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

from router.admission.context import AdmissionContext
from router.admission.fair_queue import FairQueue, RoundRobin, Ticket
from router.clock import now_s
from router.errors import Overloaded

CAPACITY_POLL_S = 0.02  # how soon waiting calls get new slots, if none is released meanwhile
MAX_RETRY_AFTER_S = 60
# A call is refused at once if its estimated wait exceeds this part of the time that it may wait: it can still
# be overtaken, models can get slower, and an early 429 beats a late one. The whole time counts for a call
# that the meta has admitted already, and for one that overtakes others itself.
REFUSE_ABOVE = 0.5


class Admission:
    """A fair queue in front of each application; `RoundRobin` is the order. All queues share one bound.

    When there is no more room to wait, the API key with the most waiting calls gives way. A call of an answer
    that has output never waits, but it takes a slot. All decisions are synchronous, on one event loop.
    """

    def __init__(
        self, num_slots: Callable[[str], int], max_slots: Callable[[str], int] | None = None
    ) -> None:
        """Both functions are those of `ModelAvailability`, and are called at every decision, since replicas
        come and go. Without `max_slots`, `num_slots` is the maximum too."""
        self._num_slots_of = num_slots
        self._max_slots_of = max_slots or num_slots
        self._queues: dict[str, FairQueue] = {}
        self._waiting = RoundRobin()  # all queues together, and the calls that wait for a model to start
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
                "mean_hold_s": queue.service_time.mean_hold_s,
            }
            for name, queue in self._queues.items()
        }

    @asynccontextmanager
    async def slot(
        self, model: str, app: str, context: AdmissionContext, *, has_output: bool, left_s: float
    ) -> AsyncIterator[None]:
        """Hold one of the application's slots while the block runs.

        With `has_output` the call does not wait. `left_s` is the time until the answer's deadline; the call
        waits for `context.wait_limit_s` at most. A call to the meta is also refused if most of the experts
        that it may need next are too busy: the meta's work would be lost.

        Raises, on entering the block:
            Overloaded: the wait would be or was too long, or too many calls wait already.
        """
        queue = self._queue(app)
        self._admit(queue)
        if has_output:
            queue.num_running += 1
        else:
            await self._take_slot(Ticket(queue, context, model), left_s)
            queue.enter(context)
        context.admitted_apps.add(app)
        queue.started_s[call := object()] = now_s()
        try:
            yield
        finally:
            queue.used_at_s = now_s()
            queue.service_time.ended(queue.used_at_s - queue.started_s.pop(call), self._num_slots(queue))
            queue.num_running -= 1
            if not has_output:
                queue.leave(context)
                queue.handoff_shares.decay()
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
        self._refuse_if_late(ticket, ticket.context.wait_limit_s(ticket.queue.name, left_s))
        if ticket.queue.num_running < self._num_slots(ticket.queue):
            ticket.queue.num_running += 1
            return
        self._make_room(ticket)
        await self._wait(ticket, left_s)

    def _refuse_if_late(self, ticket: Ticket, limit_s: float) -> None:
        queue, context = ticket.queue, ticket.context
        if queue.num_running < self._num_slots(queue):
            queue.service_time.emptied()
        else:
            queue.service_time.filled()
        upstream = context.upstream_of(queue.name)
        if upstream is not None:
            self._queue(upstream).handoff_shares.record(queue.name)
        may_use_all = upstream is not None or self._waiting.is_overtaking(context)
        estimate_s = self._estimate_s(queue, context) + self._downstream_s(queue, context, limit_s)
        if estimate_s > (1.0 if may_use_all else REFUSE_ABOVE) * limit_s:
            raise _refusal(ticket.model, estimate_s, f"the wait would be about {estimate_s:.0f} s")

    async def _wait(self, ticket: Ticket, left_s: float) -> None:
        ticket.queue.waiting.add(ticket)
        ticket.queue.enter(ticket.context)
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
            ticket.queue.leave(ticket.context)
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
            estimate_s = self._estimate_s(ticket.queue, context)
            raise _refusal(ticket.model, estimate_s, f"{self.num_waiting} answers are waiting already")
        owner = "this request" if evicted.context.key == context.key else "your API key"
        self._refuse(evicted, f"{owner} has the most answers waiting")

    def _refuse(self, ticket: Ticket, reason: str) -> None:
        self._admit(ticket.queue)
        self._remove(ticket)
        if not ticket.outcome.done():
            estimate_s = self._estimate_s(ticket.queue, ticket.context)
            ticket.outcome.set_result(_refusal(ticket.model, estimate_s, reason))

    def _remove(self, ticket: Ticket) -> None:
        ticket.queue.waiting.remove(ticket)
        self._waiting.remove(ticket)

    def _downstream_s(self, queue: FairQueue, context: AdmissionContext, limit_s: float) -> float:
        """The expected wait in the next queue: the estimates, weighted by the shares of the hand-overs.

        Calls of the key that are still here count as waiting there. No queue counts for more than `limit_s`,
        so one long queue among short ones does not decide alone.
        """
        num_coming = queue.num_undecided_before(context)
        return sum(
            share * min(limit_s, self._estimate_s(self._queues[name], context, round(share * num_coming)))
            for name, share in queue.handoff_shares.shares(context.downstream_of(queue.name)).items()
            if name in self._queues
        )

    def _estimate_s(self, queue: FairQueue, context: AdmissionContext, num_coming: int = 0) -> float:
        num_slots = self._num_slots(queue)
        if not queue.service_time.is_saturated:
            num_slots = max(num_slots, self._max_slots_of(queue.name))
        return queue.wait_s(context, num_slots, num_coming)

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


def _expire(scope: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # the block has just ended
        scope.reschedule(now_s())
