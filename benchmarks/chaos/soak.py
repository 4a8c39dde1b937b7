"""Very many short requests of every kind, to find leaks."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.chaos.census import Footprint, footprint_growth, leaks
from benchmarks.chaos.idle import freed_s
from benchmarks.chaos.replicas import ProcessSize, Replica, sizes
from benchmarks.chaos.replies import DEADLINE_S, client
from benchmarks.chaos.world import World
from benchmarks.hot_change.answers import Question

KINDS = {"streamed": 0.45, "whole": 0.45, "disconnected": 0.10}
MAX_TOKENS = 4
MAX_DISCONNECT_S = 0.1
NUM_SAMPLES = 100
MAX_FREED_S = 2.0
# The number of keep-alive connections varies; a leak of one in a hundred requests is far more than that.
MAX_FD_GROWTH = 20
# With two replicas of each of three models, a replica of an expert gets a sixth of all requests. A leak of
# 5 kB per request lets it grow by 0.8 MB per 1,000 requests; a replica of the meta or the router by 2.4 MB.
MAX_SLOPE_MB = 0.75
# With fewer requests, the slope shows only that caches and allocators still fill.
MIN_JUDGED = 5000


@dataclass(frozen=True)
class SoakReport:
    """Of the replica of each application that grew most: `slopes`, MB of RSS per 1,000 requests in the second
    half; `kept`, growth of the footprint in that half; `fd_growth`, growth of open files and sockets."""

    num_requests: dict[str, int]
    num_failed: int
    requests_per_s: float
    slopes: dict[str, float]
    rss_mb: dict[str, float]
    fd_growth: dict[str, int]
    kept: dict[str, Footprint]
    freed_s: float
    pids_kept: bool
    examples: list[str]

    def broken(self) -> list[str]:
        problems = [
            f"{app} has {num} more open files" for app, num in self.fd_growth.items() if num > MAX_FD_GROWTH
        ]
        if self.num_failed:
            problems.append(f"{self.num_failed} requests failed")
        if self.freed_s > MAX_FREED_S:
            problems.append(f"calls were open {self.freed_s:.1f} s after the last request")
        if sum(self.num_requests.values()) >= MIN_JUDGED:
            steep = {app: slope for app, slope in self.slopes.items() if slope > MAX_SLOPE_MB}
            problems += [f"{app} grows by {slope:.2f} MB per 1,000 requests" for app, slope in steep.items()]
            problems += leaks(self.kept, sum(self.num_requests.values()) // 2)
        return problems if self.pids_kept else [*problems, "a replica was restarted"]


@dataclass
class _Run:
    """`samples`: for each replica, pairs of the number of requests so far and its RSS in MB; one pair after
    `every` requests."""

    replicas: Sequence[Replica]
    every: int
    num: Counter[str] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    samples: dict[Replica, list[tuple[int, float]]] = field(default_factory=dict)


async def soak(world: World, *, num_requests: int, num_at_once: int, seed: int) -> SoakReport:
    rng = random.Random(seed)
    await world.settled()
    replicas = world.running()
    run = _Run(replicas, every=max(1, num_requests // NUM_SAMPLES))
    async with client(world.url) as http:

        async def ask(num: int, run: _Run) -> float:
            await _ask_many(http, world.questions, num, num_at_once, rng, run)
            return await freed_s(http, time.monotonic())

        await ask(num_requests // 20, _Run([], num_requests))
        before, began_s = sizes(replicas), time.monotonic()
        await ask(num_requests // 2, run)
        took_s, footprint_before = time.monotonic() - began_s, await world.census()
        began_s = time.monotonic()
        idle_s = await ask(num_requests - num_requests // 2, run)
        took_s += time.monotonic() - began_s
        after = sizes(replicas)
    return SoakReport(
        num_requests=dict(run.num),
        num_failed=len(run.failed),
        requests_per_s=num_requests / took_s,
        slopes=slopes(run.samples, num_requests),
        rss_mb={replica.app: round(size.rss_mb) for replica, size in after.items()},
        fd_growth=_fd_growth(before, after),
        kept=footprint_growth(footprint_before, await world.census(), replicas),
        freed_s=idle_s,
        pids_kept={replica.pid for replica in replicas} == {replica.pid for replica in world.running()},
        examples=run.failed[:8],
    )


def slopes(samples: Mapping[Replica, Sequence[tuple[int, float]]], num_requests: int) -> dict[str, float]:
    """Slopes by least squares over the second half, when caches are full."""
    found: dict[str, float] = {}
    for replica, pairs in samples.items():
        late = np.array([pair for pair in pairs if pair[0] >= num_requests / 2])
        slope = float(np.polyfit(late[:, 0] / 1000, late[:, 1], 1)[0])
        found[replica.app] = max(found.get(replica.app, -np.inf), slope)
    return dict(sorted(found.items()))


def _fd_growth(before: Mapping[Replica, ProcessSize], after: Mapping[Replica, ProcessSize]) -> dict[str, int]:
    growth: dict[str, int] = {}
    for replica in before.keys() & after.keys():
        added = after[replica].num_fds - before[replica].num_fds
        growth[replica.app] = max(growth.get(replica.app, 0), added)
    return dict(sorted(growth.items()))


async def _ask_many(
    http: httpx.AsyncClient,
    questions: Sequence[Question],
    num_requests: int,
    num_at_once: int,
    rng: random.Random,
    run: _Run,
) -> None:
    waiting = iter(range(num_requests))

    async def ask() -> None:
        for _ in waiting:
            kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
            run.num[kind] += 1
            if (num := sum(run.num.values())) % run.every == 0:
                for replica, size in sizes(run.replicas).items():
                    run.samples.setdefault(replica, []).append((num, size.rss_mb))
            if problem := await _ask_one(http, rng.choice(questions), kind, rng):
                run.failed.append(problem)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(num_at_once):
            tasks.create_task(ask())


async def _ask_one(http: httpx.AsyncClient, question: Question, kind: str, rng: random.Random) -> str | None:
    """Describe what went wrong. None: nothing."""
    body = {**question.body, "max_tokens": rng.randint(1, MAX_TOKENS), "stream": kind != "whole"}
    try:
        async with asyncio.timeout(
            rng.uniform(0, MAX_DISCONNECT_S) if kind == "disconnected" else DEADLINE_S
        ):
            response = await http.post(question.path, json=body)
    except TimeoutError:
        return None if kind == "disconnected" else f"hung: {body}"
    except httpx.TransportError as error:
        return f"{type(error).__name__}: {error}"
    if kind == "whole":
        return None if response.is_success else response.text[:200]
    return _stream_problem(response)


def _stream_problem(response: httpx.Response) -> str | None:
    lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
    whole = response.is_success and lines[-1:] == ["data: [DONE]"]
    failed = any(line.startswith('data: {"error"') for line in lines)
    return None if whole and not failed else f"{response.status_code} {response.text[-200:]}"
