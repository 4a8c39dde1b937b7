"""Clients that disconnect at random moments: their slots must be released at once."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import httpx

from benchmarks.chaos.idle import freed_s
from benchmarks.chaos.replies import ask_all, broken_promises, client, endings
from benchmarks.chaos.world import MAX_STREAMS, World
from benchmarks.hot_change.answers import Question

MAX_FREED_S = 2.0
NUM_CHOICES = 4
MAX_LINES = 60
LONG_TOKENS = 300  # no client waits until the end of such an answer


class Moment(StrEnum):
    UNANSWERED = "before the status"
    STREAMING = "after some events"
    CHOICES = "with n > 1"
    PLAIN = "without a stream"


@dataclass(frozen=True)
class DisconnectsReport:
    """`freed_s`: from the last disconnect until every slot and call was released. `endings`: how the answers
    ended that were requested afterwards, one for each slot and all at once."""

    num_disconnected: dict[str, int]
    num_completed: int
    freed_s: float
    endings: dict[str, int]

    def broken(self) -> list[str]:
        problems = []
        if self.freed_s > MAX_FREED_S:
            problems.append(f"slots were released only after {self.freed_s:.1f} s")
        if not sum(self.num_disconnected.values()):
            problems.append("no client disconnected, so nothing was tested")
        return [*problems, *broken_promises("afterwards", self.endings)]


async def disconnecting_clients(
    world: World, *, num_requests: int, num_at_once: int, seed: int
) -> DisconnectsReport:
    rng = random.Random(seed)
    questions = [*world.of("roman", LONG_TOKENS), *world.of("capitals", LONG_TOKENS), *world.of(None)]
    num_slots = 2 * MAX_STREAMS
    await world.record_known_answers(world.questions, num_slots)
    async with client(world.url) as http:
        disconnected = await _disconnect_all(http, questions, num_requests, num_at_once, rng)
        slots_freed_s = await freed_s(http, time.monotonic())
        replies = await ask_all(
            http, itertools.islice(itertools.cycle(world.questions), num_slots), num_slots
        )
    return DisconnectsReport(
        num_disconnected={str(moment): num for moment, num in disconnected.items() if moment},
        num_completed=disconnected[None],
        freed_s=slots_freed_s,
        endings=endings(replies, world.known),
    )


async def _disconnect_all(
    http: httpx.AsyncClient,
    questions: Sequence[Question],
    num_requests: int,
    num_at_once: int,
    rng: random.Random,
) -> Counter[Moment | None]:
    """Counts by moment. Under None: the answers that were complete before the client would disconnect."""
    disconnected: Counter[Moment | None] = Counter()
    numbers = iter(range(num_requests))

    async def ask_repeatedly() -> None:
        for _ in numbers:
            moment = rng.choice(list(Moment))
            completed = await _ask_and_disconnect(http, rng.choice(questions), moment, rng)
            disconnected[None if completed else moment] += 1

    async with asyncio.TaskGroup() as clients:
        for _ in range(num_at_once):
            clients.create_task(ask_repeatedly())
    return disconnected


async def _ask_and_disconnect(
    http: httpx.AsyncClient, question: Question, moment: Moment, rng: random.Random
) -> bool:
    """Returns whether the client received the whole answer."""
    body: dict[str, Any] = {**question.body, "stream": moment is not Moment.PLAIN}
    if moment is Moment.CHOICES:
        body["n"] = NUM_CHOICES
    patience_s = {Moment.UNANSWERED: 0.05, Moment.PLAIN: 1.0}.get(moment)
    num_lines = rng.randrange(MAX_LINES)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s and rng.uniform(0, patience_s)):
            async with http.stream("POST", question.path, json=body) as response:
                async for line in response.aiter_lines():
                    num_lines -= bool(line)
                    if num_lines < 0 and moment is not Moment.PLAIN:
                        return line == "data: [DONE]"
                return True
    return False
