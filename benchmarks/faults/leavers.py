"""Clients that leave at random moments: what they held has to be free at once."""

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

from benchmarks.faults.idle import freed_s
from benchmarks.faults.replies import ask_all, client, endings, unkept
from benchmarks.faults.world import MAX_STREAMS, World
from benchmarks.hot.answers import Question

WANTED_S = 2.0
NUM_CHOICES = 4
MAX_LINES = 60
LONG = 300  # tokens: nobody stays until the end


class Moment(StrEnum):
    UNANSWERED = "before the status"
    STREAMING = "after some events"
    CHOICES = "with n > 1"
    PLAIN = "without a stream"


@dataclass(frozen=True)
class LeaversReport:
    """`freed_s`: from the last one's leaving until every slot and call was free. `endings`: of as many
    answers as there are slots, asked for all at once afterwards."""

    num_left: dict[str, int]
    num_stayed: int
    freed_s: float
    endings: dict[str, int]

    def broken(self) -> list[str]:
        told = [] if self.freed_s <= WANTED_S else [f"slots are free after {self.freed_s:.1f} s only"]
        if not sum(self.num_left.values()):
            told.append("nobody left, so nothing was shown")
        return [*told, *unkept("afterwards", self.endings)]


async def leavers(world: World, *, num_leavers: int, num_at_once: int, seed: int) -> LeaversReport:
    chance = random.Random(seed)
    questions = [*world.of("roman", LONG), *world.of("capitals", LONG), *world.of(None)]
    num_slots = 2 * MAX_STREAMS
    await world.learn_known(world.questions, num_slots)
    async with client(world.url) as http:
        left = await _leave(http, questions, num_leavers, num_at_once, chance)
        taken_s = await freed_s(http, time.monotonic())
        again = await ask_all(http, itertools.islice(itertools.cycle(world.questions), num_slots), num_slots)
    return LeaversReport(
        num_left={str(moment): num for moment, num in left.items() if moment},
        num_stayed=left[None],
        freed_s=taken_s,
        endings=endings(again, world.known),
    )


async def _leave(
    http: httpx.AsyncClient, questions: Sequence[Question], num: int, num_at_once: int, chance: random.Random
) -> Counter[Moment | None]:
    """Under None, those whose answer was complete before they meant to leave."""
    left: Counter[Moment | None] = Counter()
    waiting = iter(range(num))

    async def come_and_go() -> None:
        for _ in waiting:
            moment = chance.choice(list(Moment))
            stayed = await _visit(http, chance.choice(questions), moment, chance)
            left[None if stayed else moment] += 1

    async with asyncio.TaskGroup() as visitors:
        for _ in range(num_at_once):
            visitors.create_task(come_and_go())
    return left


async def _visit(http: httpx.AsyncClient, question: Question, moment: Moment, chance: random.Random) -> bool:
    """Whether the client stayed until the end."""
    body: dict[str, Any] = {**question.body, "stream": moment is not Moment.PLAIN}
    if moment is Moment.CHOICES:
        body["n"] = NUM_CHOICES
    patience_s = {Moment.UNANSWERED: 0.05, Moment.PLAIN: 1.0}.get(moment)
    num_lines = chance.randrange(MAX_LINES)
    with suppress(TimeoutError):
        async with asyncio.timeout(patience_s and chance.uniform(0, patience_s)):
            async with http.stream("POST", question.path, json=body) as response:
                async for line in response.aiter_lines():
                    num_lines -= bool(line)
                    if num_lines < 0 and moment is not Moment.PLAIN:
                        return line == "data: [DONE]"
                return True
    return False
