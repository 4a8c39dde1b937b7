"""The queue in front of one application, and the order in which waiting calls get its slots."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

from router.admission.context import AdmissionContext
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


class RoundRobin:
    """Waiting calls in the order in which they get slots.

    API keys take turns; within a key, its requests of the lowest `priority` take turns; within a request the
    oldest call is first. So neither a key with many requests nor a request with many choices can block the
    rest.
    """

    def __init__(self) -> None:
        # Ordered dicts throughout: a plain dict has to skip deleted entries to find its first one.
        self._by_key: OrderedDict[str, _KeyTickets] = OrderedDict()
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, ticket: Ticket) -> None:
        self._by_key.setdefault(ticket.context.key, _KeyTickets()).add(ticket)
        self._num += 1

    def remove(self, ticket: Ticket) -> None:
        """Has no effect if the ticket is not there."""
        key = ticket.context.key
        if key in self._by_key:
            self._num -= self._by_key[key].remove(ticket)
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
        if key not in self._by_key:  # it joins at the end: each of the others has one turn before
            return len(self._by_key)
        num = self._by_key[key].num_before(context)
        return num + _num_ahead(((other, tickets.num) for other, tickets in self._by_key.items()), key, num)

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
        self._by_priority: dict[int, OrderedDict[AdmissionContext, None]] = {}  # the same order
        self._nums: Counter[int] = Counter()  # of tickets, by priority

    def add(self, ticket: Ticket) -> None:
        context = ticket.context
        self._by_request.setdefault(context, OrderedDict())[ticket] = None
        self._by_priority.setdefault(context.priority, OrderedDict())[context] = None
        self._nums[context.priority] += 1
        self.num += 1

    def remove(self, ticket: Ticket) -> bool:
        """Whether it was there."""
        context = ticket.context
        tickets = self._by_request.get(context)
        if not tickets or ticket not in tickets:
            return False
        del tickets[ticket]
        self._nums[context.priority] -= 1
        self.num -= 1
        if not tickets:
            del self._by_request[context], self._by_priority[context.priority][context]
        if not self._nums[context.priority]:
            del self._nums[context.priority], self._by_priority[context.priority]
        return True

    def first(self) -> Ticket:
        context = next(iter(self._by_priority[min(self._by_priority)]))  # the oldest of the lowest
        return next(iter(self._by_request[context]))

    def rotate(self, context: AdmissionContext) -> None:
        """The request has had its turn."""
        if context in self._by_request:
            self._by_request.move_to_end(context)
            self._by_priority[context.priority].move_to_end(context)

    def num_before(self, context: AdmissionContext) -> int:
        num_urgent = sum(num for priority, num in self._nums.items() if priority < context.priority)
        equal = self._by_priority.get(context.priority, OrderedDict())
        if context not in equal:  # it joins at the end: each of the others has one turn before
            return num_urgent + len(equal)
        num_own = len(self._by_request[context])
        nums = ((other, len(self._by_request[other])) for other in equal)
        return num_urgent + num_own + _num_ahead(nums, context, num_own)

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
    """The calls of one application: those that wait for a slot and those that hold one.

    `mean_hold_s` is how long a call holds its slot: a moving average, None before the first call has ended.
    """

    name: str
    used_at_s: float
    num_running: int = 0
    waiting: RoundRobin = field(default_factory=RoundRobin)
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


def _num_ahead(tickets: Iterable[tuple[Hashable, int]], own: Hashable, num_turns: int) -> int:
    """How many tickets of others are served, round robin, before `own` gets its turn `num_turns + 1`.

    `tickets` gives the number of tickets of each in the order of the round, `own` among them. Those ahead of
    `own` have one turn more than those behind it.
    """
    num_ahead, limit = 0, num_turns + 1
    for owner, num in tickets:
        if owner == own:
            limit = num_turns
        else:
            num_ahead += min(num, limit)
    return num_ahead
