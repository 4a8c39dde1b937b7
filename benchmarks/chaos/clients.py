"""Clients that ask one question after another while a fault happens."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import httpx

from benchmarks.chaos.replies import DEADLINE_S, Reply, ask
from benchmarks.hot_change.answers import Question


@asynccontextmanager
async def asking(
    http: httpx.AsyncClient,
    questions: Sequence[Question],
    num_clients: int,
    deadline_s: float = DEADLINE_S,
    *,
    num_at_least: int = 0,
) -> AsyncIterator[list[Reply]]:
    """All clients ask while the block runs, and until there are `num_at_least` replies. At the end, each
    finishes the answer that it has begun.

    The list fills with replies in the order in which they end. It is complete after the block.
    """
    replies: list[Reply] = []
    ending = asyncio.Event()

    async def loop(first: int) -> None:
        # Each client begins elsewhere, so that questions of every topic are under way.
        for question in itertools.cycle([*questions[first:], *questions[:first]]):
            if ending.is_set() and len(replies) >= num_at_least:
                return
            replies.append(await ask(http, question, deadline_s))

    async with asyncio.TaskGroup() as tasks:
        for i in range(num_clients):
            tasks.create_task(loop(i * len(questions) // num_clients))
        try:
            yield replies
        finally:
            ending.set()
