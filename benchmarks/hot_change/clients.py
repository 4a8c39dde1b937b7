"""Clients that ask one question after another while the cluster changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.hot_change.answers import Answer, Question, ask


@dataclass
class Clients:
    """Closed loops, each over its own questions. `answers` are in the order in which they end."""

    http: httpx.AsyncClient
    loops: Sequence[Sequence[Question]]
    answers: list[Answer] = field(default_factory=list)
    _answered: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def until(self, condition: Callable[[], bool], timeout_s: float) -> None:
        """Wait until the condition holds after an answer. Raises TimeoutError."""
        async with asyncio.timeout(timeout_s), self._answered:
            await self._answered.wait_for(condition)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[None]:
        """All clients ask while the block runs. At its end, each finishes the answer that it has begun."""
        ending = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for questions in self.loops:
                tasks.create_task(self._loop(questions, ending))
            try:
                yield
            finally:
                ending.set()

    async def _loop(self, questions: Sequence[Question], ending: asyncio.Event) -> None:
        while True:
            for question in questions:
                if ending.is_set():
                    return
                self.answers.append(await ask(self.http, question))
                async with self._answered:
                    self._answered.notify_all()


def loops_over(routed: Sequence[Question], long: Question, num_clients: int) -> list[list[Question]]:
    """A fifth of the clients ask for a long text; the rest ask the routed questions."""
    num_long = max(1, num_clients // 5)
    num_routed = num_clients - num_long
    # Each client begins elsewhere, so that questions of every topic are under way at any time.
    starts = [i * len(routed) // num_routed for i in range(num_routed)]
    return [[*routed[start:], *routed[:start]] for start in starts] + [[long]] * num_long
