"""Pace: how long a model's slots are held, and how much longer when all of them are."""

from __future__ import annotations

import asyncio

NEWEST = 0.1  # its weight in the mean of all calls
# How much slower than on average so far a model is taken to be while it is full and nothing else is known:
# the more it runs at once, the slower each.
GUESS = 5.0
MIN_ENDED = 5
# A model whose slots have been taken for so long is full. Before that its replicas may only not have taken
# what is on its way to them.
SETTLED_S = 0.5
MEMORY = 4  # times as many calls as there are slots: what was longer ago counts ever less


class Pace:
    """Learns from calls as they end. While the model is full, slots × time ÷ ends says how long one is held
    (Little's law); how long those took that have ended would say what it was like when fewer ran."""

    def __init__(self) -> None:
        self.mean_hold_s: float | None = None
        self._full_hold_s: float | None = None
        self._full_since_s: float | None = None
        self._num_ended = 0.0  # since then

    def filled(self) -> None:
        """From now on whoever comes has to wait; no matter if that was so already."""
        if self._full_since_s is None:
            self._full_since_s, self._num_ended = now_s(), 0.0

    def emptied(self) -> None:
        """Somebody came and need not wait."""
        self._full_since_s = None

    @property
    def is_full(self) -> bool:
        return self._full_since_s is not None and now_s() - self._full_since_s >= SETTLED_S

    def ended(self, held_s: float, num_slots: int) -> None:
        mean_s = held_s if self.mean_hold_s is None else self.mean_hold_s
        self.mean_hold_s = mean_s + NEWEST * (held_s - mean_s)
        if self._full_since_s is None:
            return
        self._num_ended += 1
        if self._num_ended >= _num_telling(num_slots):
            self._full_hold_s = self._hold_now_s(num_slots)
        if self._num_ended > 2 * MEMORY * num_slots:
            self._num_ended /= 2
            self._full_since_s = (self._full_since_s + now_s()) / 2

    def hold_s(self, num_slots: int) -> float | None:
        """How long a slot is held while all are taken; None if no call has ended yet.

        It grows while nothing ends: a model that has come to a halt is not what it was a minute ago.
        """
        if self.mean_hold_s is None:
            return None
        known_s = self._full_hold_s or GUESS * self.mean_hold_s
        return max(known_s, self._hold_now_s(num_slots))

    @property
    def measured_hold_s(self) -> float | None:
        """As `hold_s`, without a guess: when the model was full last, else on average."""
        return self._full_hold_s or self.mean_hold_s

    def _hold_now_s(self, num_slots: int) -> float:
        """By what ended since the model was full; until that tells enough, at least as long as that is."""
        if self._full_since_s is None:
            return 0.0
        full_s = now_s() - self._full_since_s
        is_telling = self._num_ended >= _num_telling(num_slots)
        return full_s * num_slots / self._num_ended if is_telling else full_s


def _num_telling(num_slots: int) -> float:
    return max(MIN_ENDED, num_slots / MEMORY)


def now_s() -> float:
    return asyncio.get_running_loop().time()
