"""One line: who waits for a slot of an application, and in whose turn."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from itertools import islice

from router.errors import Overloaded
from router.onward import Onward
from router.pace import Pace, now_s

FORGET_S = 600.0  # after so long without a call, what was measured of it says nothing any more


@dataclass(slots=True, eq=False)
class Waiter:
    """`model`: which of the line's models it waits for; they share its slots."""

    line: Line
    key: str
    model: str
    turn: asyncio.Future[Overloaded | None] = field(default_factory=asyncio.Future)  # None grants the slot


class Turns:
    """Waiters by key, oldest first; the keys in the order of their turns, none of them without waiters."""

    def __init__(self) -> None:
        # Ordered dicts, because a plain one looks for its first entry past all that were deleted before it.
        self._by_key: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def num_of(self, key: str) -> int:
        return len(self._by_key.get(key, ()))

    def is_overtaking(self, key: str) -> bool:
        """Whether another key has more waiting."""
        return any(len(waiters) > self.num_of(key) for waiters in self._by_key.values())

    def newest_of_greediest(self) -> Waiter:
        return next(reversed(self._by_key[max(self._by_key, key=self.num_of)]))

    def num_before(self, key: str) -> int:
        """How many have their turn before one of `key` that comes now."""
        num_before = num_own = self.num_of(key)
        num_turns = num_own + 1  # of each key that is before `key` in the round
        for other, waiters in self._by_key.items():
            if other == key:
                num_turns = num_own
            else:
                num_before += min(len(waiters), num_turns)
        return num_before

    def add(self, waiter: Waiter) -> None:
        self._by_key.setdefault(waiter.key, OrderedDict())[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """No matter if it is gone already."""
        waiters = self._by_key.get(waiter.key, OrderedDict())
        waiters.pop(waiter, None)
        if not waiters:
            self._by_key.pop(waiter.key, None)

    def take(self) -> Waiter | None:
        """The oldest of the key whose turn it is, if anybody waits."""
        while self._by_key:
            key, waiters = next(iter(self._by_key.items()))
            waiter = next(iter(waiters))
            self.remove(waiter)
            if not waiter.turn.done():  # else its client left a moment ago, and that costs its key no turn
                if key in self._by_key:
                    self._by_key.move_to_end(key)
                return waiter
        return None


@dataclass(slots=True)
class Line:
    name: str
    used_at_s: float
    num_running: int = 0
    new: Counter[str] = field(default_factory=Counter)  # by key, those of them that were let in to begin here
    began_s: OrderedDict[object, float] = field(default_factory=OrderedDict)  # of what runs, oldest first
    pace: Pace = field(default_factory=Pace)
    onward: Onward = field(default_factory=Onward)
    turns: Turns = field(default_factory=Turns)

    def num_unbegun(self, key: str) -> int:
        """Those of the key that are to begin here, or to be handed on: the ones that wait too."""
        return self.new[key] + self.turns.num_of(key)

    def wait_s(self, key: str, num_slots: int, num_coming: int = 0) -> float:
        """How long the next of `key` would wait about: until so many have ended as have their turn before it,
        `num_coming` among them, and one more. 0 where nobody has to wait, or nothing is known yet.

        With all slots held for `hold_s`, one falls free every `hold_s / num_slots`; sooner none does than the
        oldest has run that long, if all began together: which is no time to guess, or the first to wait at a
        model that was never full is sent away. What runs beyond the slots has to end first.
        """
        hold_s, measured_s = self.pace.hold_s(num_slots), self.pace.measured_hold_s
        num_ends = self.turns.num_before(key) + num_coming + self.num_running - num_slots + 1
        if hold_s is None or measured_s is None or num_ends <= 0:
            return 0.0
        last = next(islice(self.began_s.values(), num_ends - 1, None), None)
        left_s = 0.0 if last is None else last + measured_s - now_s()
        return max(num_ends * hold_s / num_slots, left_s)

    def is_used(self) -> bool:
        return self.num_running > 0 or len(self.turns) > 0 or now_s() - self.used_at_s < FORGET_S
