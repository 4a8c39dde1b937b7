"""The queue in front of one application, and the order in which waiting calls get its slots."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from router.admission.context import AdmissionContext
from router.admission.handoff_shares import HandoffShares
from router.clock import now_s
from router.errors import Overloaded
from router.service_time import ServiceTimeEstimator

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


class RoundRobin:
    """Waiting calls in the order in which they get slots.

    API keys take turns; within a key its requests take turns; within a request the oldest call is first. So
    neither a key with many requests nor a request with many choices can block the rest.
    """

    def __init__(self) -> None:
        # Ordered dicts throughout: a plain dict has to skip deleted entries to find its first one.
        self._by_key: OrderedDict[str, _KeyTickets] = OrderedDict()

    def __len__(self) -> int:
        return sum(tickets.num for tickets in self._by_key.values())

    def add(self, ticket: Ticket) -> None:
        self._by_key.setdefault(ticket.context.key, _KeyTickets()).add(ticket)

    def remove(self, ticket: Ticket) -> None:
        """Has no effect if the ticket is not there."""
        key = ticket.context.key
        if key in self._by_key:
            self._by_key[key].remove(ticket)
            if not self._by_key[key].num:
                del self._by_key[key]

    def take(self) -> Ticket | None:
        """Remove and return the next ticket; None if there is none."""
        while self._by_key:
            key, tickets = next(iter(self._by_key.items()))
            ticket = tickets.first()
            self.remove(ticket)
            if not ticket.outcome.done():  # done: its client has just left, and its key keeps its turn
                tickets.rotate(ticket.context)
                if key in self._by_key:
                    self._by_key.move_to_end(key)
                return ticket
        return None

    def num_before(self, context: AdmissionContext) -> int:
        """How many calls get their slot before a call of this request that arrives now."""
        key = context.key
        num = self._by_key[key].num_before(context) if key in self._by_key else 0
        return num + _num_ahead(((other, tickets.num) for other, tickets in self._by_key.items()), key, num)

    def is_overtaking(self, context: AdmissionContext) -> bool:
        """Whether a call of this request would overtake others: another key, or another request, has more."""
        own = self._by_key.get(context.key)
        num_own = own.num if own else 0
        if any(tickets.num > num_own for tickets in self._by_key.values()):
            return True
        return own is not None and own.has_longer_request(context)

    def to_evict(self, context: AdmissionContext) -> Ticket | None:
        """The ticket that gives way to a new one of this request if there is no room for both.

        The newest of the longest request of the key with the most tickets. None if the new one belongs there.
        """
        longest = max(self._by_key.values(), key=lambda tickets: tickets.num)
        own = self._by_key.get(context.key)
        if own is None or own.num < longest.num:
            return longest.newest()
        return own.newest() if own.has_longer_request(context) else None


class _KeyTickets:
    """The tickets of one key, by request; no request without tickets."""

    def __init__(self) -> None:
        self.num = 0
        self._by_request: OrderedDict[AdmissionContext, OrderedDict[Ticket, None]] = OrderedDict()

    def add(self, ticket: Ticket) -> None:
        self._by_request.setdefault(ticket.context, OrderedDict())[ticket] = None
        self.num += 1

    def remove(self, ticket: Ticket) -> None:
        tickets = self._by_request.get(ticket.context)
        if tickets and ticket in tickets:
            del tickets[ticket]
            self.num -= 1
            if not tickets:
                del self._by_request[ticket.context]

    def first(self) -> Ticket:
        return next(iter(next(iter(self._by_request.values()))))

    def rotate(self, context: AdmissionContext) -> None:
        """The request has had its turn."""
        if context in self._by_request:
            self._by_request.move_to_end(context)

    def num_before(self, context: AdmissionContext) -> int:
        if context not in self._by_request:  # nearly always: one turn of each other request
            return len(self._by_request)
        num_own = len(self._by_request[context])
        nums = ((other, len(tickets)) for other, tickets in self._by_request.items())
        return num_own + _num_ahead(nums, context, num_own)

    def has_longer_request(self, context: AdmissionContext) -> bool:
        """Whether another request has more tickets than this one would have with one more."""
        if len(self._by_request) == self.num:  # nearly always: one ticket each
            return False
        num_own = len(self._by_request.get(context, ())) + 1
        return any(len(tickets) > num_own for tickets in self._by_request.values())

    def newest(self) -> Ticket:
        """The newest ticket of the request with the most tickets; if several have as many, of the newest."""
        longest = max(reversed(self._by_request.values()), key=len)
        return next(reversed(longest))


@dataclass(slots=True)
class FairQueue:
    """The calls of one application: those that wait for a slot and those that hold one."""

    name: str
    used_at_s: float
    num_running: int = 0
    waiting: RoundRobin = field(default_factory=RoundRobin)
    started_s: OrderedDict[object, float] = field(default_factory=OrderedDict)  # of the running, oldest first
    service_time: ServiceTimeEstimator = field(default_factory=ServiceTimeEstimator)
    handoff_shares: HandoffShares = field(default_factory=HandoffShares)
    _undecided: dict[str, Counter[AdmissionContext]] = field(default_factory=dict)  # by key

    def enter(self, context: AdmissionContext) -> None:
        """Count a call without output, waiting or running: it may still be handed over to another queue."""
        self._undecided.setdefault(context.key, Counter())[context] += 1

    def leave(self, context: AdmissionContext) -> None:
        counts = self._undecided[context.key]
        counts[context] -= 1
        if not counts[context]:
            del counts[context]
        if not counts:
            del self._undecided[context.key]

    def num_undecided_before(self, context: AdmissionContext) -> int:
        """How many of the key's calls here would be served in the next queue before a call of this request.

        Calls of other keys do not count, since keys take turns there.
        """
        counts = self._undecided.get(context.key, Counter())
        num_own = counts[context]
        return sum(min(num, num_own + 1) for num in counts.values()) if num_own else len(counts)

    def wait_s(self, context: AdmissionContext, num_slots: int, num_coming: int = 0) -> float:
        """Estimate how long a call of this request that arrives now waits for one of `num_slots` slots.

        That is the time until every call before it, and `num_coming` more, has got a slot. It is 0 if a slot
        is free or nothing is known yet. If more calls run than there are slots, the surplus has to end
        first.

        With all slots held for `hold_s`, one is released every `hold_s / num_slots`. If all were taken at the
        same time, none is released before the oldest call ends. That second bound uses measured times only:
        with a guess, the first call to wait at a model that was never saturated would be refused.
        """
        hold_s, measured_s = self.service_time.hold_s(num_slots), self.service_time.measured_hold_s
        num_ends = self.waiting.num_before(context) + num_coming + self.num_running - num_slots + 1
        if hold_s is None or measured_s is None or num_ends <= 0:
            return 0.0
        last_to_end_s = next(islice(self.started_s.values(), num_ends - 1, None), None)
        left_s = 0.0 if last_to_end_s is None else last_to_end_s + measured_s - now_s()
        return max(num_ends * hold_s / num_slots, left_s)

    def is_in_use(self) -> bool:
        return self.num_running > 0 or len(self.waiting) > 0 or now_s() - self.used_at_s < IDLE_QUEUE_TTL_S


def _num_ahead(tickets: Iterable[tuple[Hashable, int]], own: Hashable, num_turns: int) -> int:
    """How many tickets of others are served, round robin, before `own` gets its turn `num_turns + 1`.

    `tickets` gives the number of tickets of each in the order of the round. Those ahead of `own` have one
    turn more than those behind it; if `own` is not among them, it joins at the end.
    """
    num_ahead, limit = 0, num_turns + 1
    for owner, num in tickets:
        if owner == own:
            limit = num_turns
        else:
            num_ahead += min(num, limit)
    return num_ahead
