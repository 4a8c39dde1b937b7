"""Admission: answers that cannot begin yet wait their turn, or are refused where that would take too long."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager, suppress

from router.errors import Overloaded
from router.line import Line, Turns, Waiter
from router.pace import now_s

LOOK_PERIOD_S = 0.02  # how soon it is noticed that capacity grew, where no slot falls free meanwhile
MAX_RETRY_AFTER_S = 60
# Whoever is let in to wait can be overtaken by fairer keys, and answers may get slower: to be refused at once
# is better than at the end. Who was let in by one model already is not refused by the next for that, nor is a
# key while another has more waiting: it is the one that overtakes.
MARGIN = 0.5


class Admission:
    """A bounded line in front of every model, or of several that share their replicas; in each line API keys
    take turns.

    However many answers one key has waiting, it gets one slot before the next key does, and it is the key
    that has the most waiting that gives way when there is no more room to wait. An answer that has begun
    is never kept waiting, but what it runs takes slots. For one event loop: all is decided synchronously.
    """

    def __init__(
        self, num_slots: Callable[[str], int], max_slots: Callable[[str], int] | None = None
    ) -> None:
        """Both as in `Routes`, and asked anew at every decision, since replicas come and go. Without
        `max_slots` there are always as many as there can be."""
        self._slots_of = num_slots
        self._max_slots_of = max_slots or num_slots
        self._lines: dict[str, Line] = {}
        self._waiting = Turns()
        self._next_look: asyncio.TimerHandle | None = None

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        return sum(line.num_running for line in self._lines.values())

    def load(self) -> dict[str, dict[str, float | None]]:
        """By line; without those that nobody asked for lately."""
        return {
            name: {
                "num_running": it.num_running,
                "num_waiting": len(it.turns),
                "mean_hold_s": it.pace.mean_hold_s,
            }
            for name, it in self._lines.items()
        }

    @asynccontextmanager
    async def slot(
        self,
        model: str,
        key: str,
        *,
        line: str | None = None,
        begun: bool,
        queue_s: float,
        max_waiting: int,
        came_from: str | None = None,
        may_go_to: Collection[str] = (),
    ) -> AsyncIterator[None]:
        """Hold one of the model's slots while the block runs; who has `begun` to answer does not wait for it.

        `line` is the one it shares with others, if it does. `key` is the name of an API key; `max_waiting`
        bounds all lines together. `came_from` is the line that let the answer in and handed it on;
        `may_go_to` are those that this model may hand it on to. If most of what it hands on would wait too
        long there, an answer is refused before work is done for it.

        Raises, on entering the block:
            Overloaded: the wait would be too long, or was `queue_s` long; or there is no room to wait.
        """
        it = self._line(line or model)
        self._admit(it)
        if begun:
            it.num_running += 1
        else:
            waiter = Waiter(it, key, model)
            self._require_time(waiter, queue_s, came_from, may_go_to)
            await self._enter(waiter, queue_s, max_waiting)
            it.new[key] += 1
        it.began_s[mark := object()] = now_s()
        try:
            yield
        finally:
            it.used_at_s = now_s()
            it.pace.ended(it.used_at_s - it.began_s.pop(mark), self._num_slots(it))
            it.num_running -= 1
            if not begun:
                it.new -= Counter((key,))  # and none that is 0 is kept
                it.onward.left()
            self._admit(it)

    @asynccontextmanager
    async def waiting_for_start(
        self, model: str, key: str, *, line: str | None = None, max_waiting: int
    ) -> AsyncIterator[None]:
        """Count among those that wait while the block runs: until the model is there, nobody's turn comes.

        Raises Overloaded, on entering or within the block: there is no room to wait (any more).
        """
        waiter = Waiter(self._line(line or model), key, model)
        if self.num_waiting >= max_waiting:
            self._make_room(waiter)
        self._waiting.add(waiter)
        try:
            async with asyncio.timeout(None) as scope:
                waiter.turn.add_done_callback(lambda _: _expire(scope))
                yield
        except TimeoutError:
            if waiter.turn.done() and (refusal := waiter.turn.result()):
                raise refusal from None
            raise
        finally:
            self._remove(waiter)

    def look(self) -> None:
        """Let in whoever may go in by now. It is done regularly while anybody waits; sooner is no harm."""
        for line in self._lines.values():
            self._admit(line)

    def _require_time(
        self, waiter: Waiter, queue_s: float, came_from: str | None, may_go_to: Collection[str]
    ) -> None:
        line, key = waiter.line, waiter.key
        if line.num_running < self._num_slots(line):
            line.pace.emptied()
        else:
            line.pace.filled()
        if came_from is not None:
            self._line(came_from).onward.went_to(line.name)
        margin = 1.0 if came_from is not None or self._waiting.is_overtaking(key) else MARGIN
        estimate_s = self._estimate_s(line, key) + self._later_s(line, key, may_go_to, queue_s)
        if estimate_s > margin * queue_s:
            raise _refusal(waiter.model, estimate_s, f"the wait would be about {estimate_s:.0f} s")

    async def _enter(self, waiter: Waiter, queue_s: float, max_waiting: int) -> None:
        if waiter.line.num_running < self._num_slots(waiter.line):
            waiter.line.num_running += 1
            return
        if self.num_waiting >= max_waiting:
            self._make_room(waiter)
        await self._wait(waiter, queue_s)

    async def _wait(self, waiter: Waiter, queue_s: float) -> None:
        """Returns with the slot, which counts as running already."""
        waiter.line.turns.add(waiter)
        self._waiting.add(waiter)
        why = f"no slot fell free within {queue_s:g} s"
        expiry = asyncio.get_running_loop().call_later(queue_s, self._refuse, waiter, why)
        try:
            if self._next_look is None:
                self._look_again()
            refusal = await waiter.turn
        except asyncio.CancelledError:
            if not waiter.turn.cancelled() and waiter.turn.result() is None:
                # It was granted in the very moment its client left: the slot is the next one's.
                waiter.line.num_running -= 1
                self._admit(waiter.line)
            raise
        finally:
            expiry.cancel()
            self._remove(waiter)
        if refusal is not None:
            raise refusal

    def _admit(self, line: Line) -> None:
        num_slots = self._num_slots(line)
        while line.num_running < num_slots and (waiter := line.turns.take()):
            self._waiting.remove(waiter)
            line.num_running += 1
            waiter.turn.set_result(None)

    def _make_room(self, waiter: Waiter) -> None:
        """Refuse the newest of whoever has the most waiting in all lines; raises if that is its own key."""
        newest = self._waiting.newest_of_greediest()
        if self._waiting.num_of(waiter.key) >= self._waiting.num_of(newest.key):
            why = f"{self.num_waiting} answers wait already"
            raise _refusal(waiter.model, self._estimate_s(waiter.line, waiter.key), why)
        self._refuse(newest, "others have fewer answers waiting")

    def _refuse(self, waiter: Waiter, why: str) -> None:
        self._admit(waiter.line)
        self._remove(waiter)
        if not waiter.turn.done():
            estimate_s = self._estimate_s(waiter.line, waiter.key)
            waiter.turn.set_result(_refusal(waiter.model, estimate_s, why))

    def _remove(self, waiter: Waiter) -> None:
        waiter.line.turns.remove(waiter)
        self._waiting.remove(waiter)

    def _later_s(self, line: Line, key: str, next_lines: Collection[str], queue_s: float) -> float:
        """The mean wait to expect after this line, behind those of the key that are on their way there; other
        keys' have their own turns. One long line among short ones counts by its share, and no line for more
        than all the time there is."""
        shares = line.onward.shares(next_lines)
        lines = {name: self._lines[name] for name in shares if name in self._lines}
        return sum(
            shares[name]
            * min(queue_s, self._estimate_s(it, key, round(shares[name] * line.num_unbegun(key))))
            for name, it in lines.items()
        )

    def _estimate_s(self, line: Line, key: str, num_coming: int = 0) -> float:
        num_slots = self._num_slots(line)
        if not line.pace.is_full:
            num_slots = max(num_slots, self._max_slots_of(line.name))
        return line.wait_s(key, num_slots, num_coming)

    def _num_slots(self, line: Line) -> int:
        # A model that was taken away has none; whoever waits for it must get through to be told so.
        return max(1, self._slots_of(line.name))

    def _line(self, name: str) -> Line:
        if name not in self._lines:  # their names come and go with the tables
            self._lines = {other: line for other, line in self._lines.items() if line.is_used()}
            self._lines[name] = Line(name, now_s())
        return self._lines[name]

    def _look_again(self) -> None:
        later = asyncio.get_running_loop().call_later
        self._next_look = later(LOOK_PERIOD_S, self._look_again) if self.num_waiting else None
        self.look()


def _refusal(model: str, estimate_s: float, why: str) -> Overloaded:
    retry_after_s = max(1, math.ceil(min(estimate_s, MAX_RETRY_AFTER_S)))
    return Overloaded(f"{model} is busy: {why}; try again in {retry_after_s} s", retry_after_s)


def _expire(scope: asyncio.Timeout) -> None:
    with suppress(RuntimeError):  # left in this very moment
        scope.reschedule(now_s())
