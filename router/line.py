"""One model's line: who waits for a slot, in whose turn, and how long slots are held."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field

from router.errors import Overloaded

NEWEST = 0.1  # its weight in the mean time that slots are held
FORGET_S = 600.0  # after so long without a call, what was measured of a model says nothing any more


@dataclass(slots=True, eq=False)
class Waiter:
    line: Line
    key: str
    turn: asyncio.Future[Overloaded | None]  # None grants the slot


class Turns:
    """Waiters by key, oldest first; the keys in the order of their turns, none of them without waiters."""

    def __init__(self) -> None:
        # Ordered dicts, because a plain one looks for its first entry past all that were deleted before it.
        self._by_key: OrderedDict[str, OrderedDict[Waiter, None]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def num_of(self, key: str) -> int:
        return len(self._by_key.get(key, ()))

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
    model: str
    used_at_s: float
    num_running: int = 0
    mean_hold_s: float | None = None
    sum_began_s: float = 0.0
    num_held: int = 0
    turns: Turns = field(default_factory=Turns)

    @property
    def age_s(self) -> float:
        """Twice the mean age of what runs: where all take equally long, that is how long. It tells at once
        that answers got slower, as they do when there are many; those that have ended tell it only later."""
        return 2 * (now_s() - self.sum_began_s / self.num_held) if self.num_held else 0.0

    def is_used(self) -> bool:
        return self.num_running > 0 or len(self.turns) > 0 or now_s() - self.used_at_s < FORGET_S

    def begin(self) -> float:
        began_s = now_s()
        self.num_held += 1
        self.sum_began_s += began_s
        return began_s

    def end(self, began_s: float) -> None:
        self.num_held -= 1
        # Exactly nothing where nothing runs, whatever was rounded on the way.
        self.sum_began_s = self.sum_began_s - began_s if self.num_held else 0.0
        self.used_at_s = now_s()
        held_s = self.used_at_s - began_s
        mean_s = held_s if self.mean_hold_s is None else self.mean_hold_s
        self.mean_hold_s = mean_s + NEWEST * (held_s - mean_s)


def now_s() -> float:
    return asyncio.get_running_loop().time()
