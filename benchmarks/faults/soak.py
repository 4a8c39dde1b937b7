"""Very many short requests of every kind: does anything grow?"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.faults.census import Holding, grown, leaks
from benchmarks.faults.idle import freed_s
from benchmarks.faults.replicas import Replica, Size, sizes
from benchmarks.faults.replies import DEADLINE_S, client
from benchmarks.faults.world import World
from benchmarks.hot.answers import Question

KINDS = {"streamed": 0.45, "whole": 0.45, "left": 0.10}
MAX_TOKENS = 4
PATIENCE_S = 0.1
NUM_SAMPLES = 100
WANTED_FREE_S = 2.0
# Sockets of keep-alive connections come and go; a leak of one in a hundred requests is far more.
WANTED_FDS = 20
# Of two replicas of one of three models, each sees a sixth of all requests. A leak of 5 kB in each of them
# makes a replica of an expert grow by 0.8 MB per 1,000 requests, one of the meta or the router by 2.4 MB.
WANTED_SLOPE_MB = 0.75
# Before that, caches and allocators still fill: a slope says how far they have got.
MIN_JUDGED = 5000


@dataclass(frozen=True)
class SoakReport:
    """`slopes`: MB of RSS for each 1,000 requests in the second half, by application the steepest replica.
    `kept`: what replicas hold more after the second half than after the first, likewise; `grown_fds`: open
    files and sockets more than before both."""

    num_requests: dict[str, int]
    num_failed: int
    requests_per_s: float
    slopes: dict[str, float]
    rss_mb: dict[str, float]
    grown_fds: dict[str, int]
    kept: dict[str, Holding]
    freed_s: float
    pids_kept: bool
    examples: list[str]

    def broken(self) -> list[str]:
        told = [f"{app} holds {num} more files" for app, num in self.grown_fds.items() if num > WANTED_FDS]
        if self.num_failed:
            told.append(f"{self.num_failed} requests failed")
        if self.freed_s > WANTED_FREE_S:
            told.append(f"calls are open {self.freed_s:.1f} s after the last request")
        if sum(self.num_requests.values()) >= MIN_JUDGED:
            steep = {app: slope for app, slope in self.slopes.items() if slope > WANTED_SLOPE_MB}
            told += [f"{app} grows by {slope:.2f} MB per 1,000 requests" for app, slope in steep.items()]
            told += leaks(self.kept, sum(self.num_requests.values()) // 2)
        return told if self.pids_kept else [*told, "a replica was restarted"]


@dataclass
class _Run:
    """`samples`: RSS in MB of each of the `replicas`, `every` so many requests, with how many there had
    been."""

    replicas: Sequence[Replica]
    every: int
    num: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    samples: dict[Replica, list[tuple[int, float]]] = field(default_factory=dict)


async def soak(world: World, *, num_requests: int, num_at_once: int, seed: int) -> SoakReport:
    chance = random.Random(seed)
    await world.settled()
    replicas = world.running()
    run = _Run(replicas, every=max(1, num_requests // NUM_SAMPLES))
    async with client(world.url) as http:

        async def ask(num: int, run: _Run) -> float:
            await _ask_many(http, world.questions, num, num_at_once, chance, run)
            return await freed_s(http, time.monotonic())

        await ask(num_requests // 20, _Run([], num_requests))
        before, began_s = sizes(replicas), time.monotonic()
        await ask(num_requests // 2, run)
        took_s, held = time.monotonic() - began_s, await world.census()
        began_s = time.monotonic()
        free_s = await ask(num_requests - num_requests // 2, run)
        took_s += time.monotonic() - began_s
        after = sizes(replicas)
    return SoakReport(
        num_requests=dict(run.num),
        num_failed=len(run.failed),
        requests_per_s=num_requests / took_s,
        slopes=slopes(run.samples, num_requests),
        rss_mb={one.app: round(size.rss_mb) for one, size in after.items()},
        grown_fds=_grown_fds(before, after),
        kept=grown(held, await world.census(), replicas),
        freed_s=free_s,
        pids_kept={one.pid for one in replicas} == {one.pid for one in world.running()},
        examples=run.failed[:8],
    )


def slopes(samples: Mapping[Replica, Sequence[tuple[int, float]]], num_requests: int) -> dict[str, float]:
    """By least squares over the second half: what is filled once, like a cache, is full by then."""
    found: dict[str, float] = {}
    for one, seen in samples.items():
        late = np.array([sample for sample in seen if sample[0] >= num_requests / 2])
        slope = float(np.polyfit(late[:, 0] / 1000, late[:, 1], 1)[0])
        found[one.app] = max(found.get(one.app, -np.inf), slope)
    return dict(sorted(found.items()))


def _grown_fds(before: Mapping[Replica, Size], after: Mapping[Replica, Size]) -> dict[str, int]:
    grown: dict[str, int] = {}
    for one in before.keys() & after.keys():
        grown[one.app] = max(grown.get(one.app, 0), after[one].num_fds - before[one].num_fds)
    return dict(sorted(grown.items()))


async def _ask_many(
    http: httpx.AsyncClient,
    questions: Sequence[Question],
    num_requests: int,
    num_at_once: int,
    chance: random.Random,
    run: _Run,
) -> None:
    waiting = iter(range(num_requests))

    async def ask() -> None:
        for _ in waiting:
            kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
            run.num[kind] += 1
            if (num := sum(run.num.values())) % run.every == 0:
                for replica, size in sizes(run.replicas).items():
                    run.samples.setdefault(replica, []).append((num, size.rss_mb))
            if told := await _one(http, chance.choice(questions), kind, chance):
                run.failed.append(told)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(num_at_once):
            tasks.create_task(ask())


async def _one(http: httpx.AsyncClient, question: Question, kind: str, chance: random.Random) -> str | None:
    """What went wrong."""
    body = {**question.body, "max_tokens": chance.randint(1, MAX_TOKENS), "stream": kind != "whole"}
    try:
        async with asyncio.timeout(chance.uniform(0, PATIENCE_S) if kind == "left" else DEADLINE_S):
            response = await http.post(question.path, json=body)
    except TimeoutError:
        return None if kind == "left" else f"hung: {body}"
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    return _told(response) if kind != "whole" else None if response.is_success else response.text[:200]


def _told(response: httpx.Response) -> str | None:
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    whole = response.is_success and lines[-1:] == ["data: [DONE]"]
    failed = any(line.startswith('data: {"error"') for line in lines)
    return None if whole and not failed else f"{response.status_code} {response.text[-200:]}"
