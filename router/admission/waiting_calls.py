"""The order in which waiting calls get slots."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Hashable, Iterable
from typing import Generic, Protocol, TypeVar

from router.admission.context import AdmissionContext
from router.errors import Overloaded


class WaitingCall(Protocol):
    """A call of one request, whose `outcome` is done once it no longer waits."""

    @property
    def context(self) -> AdmissionContext: ...

    @property
    def outcome(self) -> asyncio.Future[Overloaded | None]: ...


CallT = TypeVar("CallT", bound=WaitingCall)


class WaitingCalls(Generic[CallT]):
    """Waiting calls in the order in which they get slots.

    API keys with the lowest priority are first; keys of the same priority take turns, as in `RoundRobin`.
    """

    def __init__(self) -> None:
        self._by_priority: dict[int, RoundRobin[CallT]] = {}  # no empty ones

    def __len__(self) -> int:
        return sum(len(calls) for calls in self._by_priority.values())

    def add(self, call: CallT) -> None:
        self._by_priority.setdefault(call.context.key_priority, RoundRobin()).add(call)

    def remove(self, call: CallT) -> None:
        """Has no effect if the call is not there."""
        priority = call.context.key_priority
        if priority in self._by_priority:
            self._by_priority[priority].remove(call)
            self._drop_if_empty(priority)

    def take(self) -> CallT | None:
        """Remove and return the next call; None if there is none."""
        while self._by_priority:
            priority = min(self._by_priority)
            call = self._by_priority[priority].take()
            self._drop_if_empty(priority)
            if call is not None:
                return call
        return None

    def num_before(self, context: AdmissionContext) -> int:
        """How many calls get their slot before a call of this request that arrives now."""
        own = context.key_priority
        num_before = sum(len(calls) for priority, calls in self._by_priority.items() if priority < own)
        return num_before + (self._by_priority[own].num_before(context) if own in self._by_priority else 0)

    def to_evict(self, context: AdmissionContext) -> CallT | None:
        """The call that gives way to a new one of this request if there is no room for both.

        One of the keys that are served last. None if the new one belongs there.
        """
        last = max(self._by_priority)
        if last == context.key_priority:
            return self._by_priority[last].to_evict(context)
        return self._by_priority[last].newest() if last > context.key_priority else None

    def _drop_if_empty(self, priority: int) -> None:
        if not len(self._by_priority[priority]):
            del self._by_priority[priority]


class RoundRobin(Generic[CallT]):
    """Waiting calls in the order in which they get slots.

    API keys take turns; within a key, its requests of the lowest `priority` take turns; within a request the
    oldest call is first. So neither a key with many requests nor a request with many choices can block the
    rest.
    """

    def __init__(self) -> None:
        # Ordered dicts throughout: a plain dict has to skip deleted entries to find its first one.
        self._by_key: OrderedDict[str, _KeyCalls[CallT]] = OrderedDict()
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, call: CallT) -> None:
        self._by_key.setdefault(call.context.key, _KeyCalls()).add(call)
        self._num += 1

    def remove(self, call: CallT) -> None:
        """Has no effect if the call is not there."""
        key = call.context.key
        if key in self._by_key:
            self._num -= self._by_key[key].remove(call)
            if not self._by_key[key].num:
                del self._by_key[key]

    def take(self) -> CallT | None:
        """Remove and return the next call; None if there is none."""
        while self._by_key:
            key, calls = next(iter(self._by_key.items()))
            call = calls.first()
            self.remove(call)
            if not call.outcome.done():  # done: its client has just left, and its key keeps its turn
                calls.rotate(call.context)
                if key in self._by_key:
                    self._by_key.move_to_end(key)
                return call
        return None

    def num_before(self, context: AdmissionContext) -> int:
        """How many calls get their slot before a call of this request that arrives now."""
        key = context.key
        if key not in self._by_key:  # it joins at the end: each of the others has one turn before
            return len(self._by_key)
        num = self._by_key[key].num_before(context)
        return num + _num_ahead(((other, calls.num) for other, calls in self._by_key.items()), key, num)

    def to_evict(self, context: AdmissionContext) -> CallT | None:
        """The call that gives way to a new one of this request if there is no room for both.

        The newest of the longest request of the key with the most calls. None if the new one belongs there.
        """
        longest, own = self._longest(), self._by_key.get(context.key)
        if own is None or own.num < longest.num:
            return longest.newest()
        return own.newest() if own.has_longer_request(context) else None

    def newest(self) -> CallT:
        """The newest of the longest request of the key with the most calls."""
        return self._longest().newest()

    def _longest(self) -> _KeyCalls[CallT]:
        return max(self._by_key.values(), key=lambda calls: calls.num)


class _KeyCalls(Generic[CallT]):
    """The calls of one key, by request; no request without calls."""

    def __init__(self) -> None:
        self.num = 0
        self._by_request: OrderedDict[AdmissionContext, OrderedDict[CallT, None]] = OrderedDict()
        self._by_priority: dict[int, OrderedDict[AdmissionContext, None]] = {}  # the same order
        self._nums: Counter[int] = Counter()  # of calls, by priority

    def add(self, call: CallT) -> None:
        context = call.context
        self._by_request.setdefault(context, OrderedDict())[call] = None
        self._by_priority.setdefault(context.priority, OrderedDict())[context] = None
        self._nums[context.priority] += 1
        self.num += 1

    def remove(self, call: CallT) -> bool:
        """Whether it was there."""
        context = call.context
        calls = self._by_request.get(context)
        if not calls or call not in calls:
            return False
        del calls[call]
        self._nums[context.priority] -= 1
        self.num -= 1
        if not calls:
            del self._by_request[context], self._by_priority[context.priority][context]
        if not self._nums[context.priority]:
            del self._nums[context.priority], self._by_priority[context.priority]
        return True

    def first(self) -> CallT:
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
        """Whether another request has more calls than this one would have with one more."""
        if len(self._by_request) == self.num:  # nearly always: one call each
            return False
        num_own = len(self._by_request.get(context, ())) + 1
        return any(len(calls) > num_own for calls in self._by_request.values())

    def newest(self) -> CallT:
        """The newest call of the request with the most calls; if several have as many, of the newest."""
        longest = max(reversed(self._by_request.values()), key=len)
        return next(reversed(longest))


def _num_ahead(calls: Iterable[tuple[Hashable, int]], own: Hashable, num_turns: int) -> int:
    """How many calls of others are served, round robin, before `own` gets its turn `num_turns + 1`.

    `calls` gives the number of calls of each in the order of the round, `own` among them. Those ahead of
    `own` have one turn more than those behind it.
    """
    num_ahead, limit = 0, num_turns + 1
    for owner, num in calls:
        if owner == own:
            limit = num_turns
        else:
            num_ahead += min(num, limit)
    return num_ahead
