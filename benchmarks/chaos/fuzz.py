"""Fuzz requests: no answer is a 500, no replica dies, no replica grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.chaos.census import Footprint, footprint_growth, leaks
from benchmarks.chaos.fuzzing.sender import FuzzResult, send_fuzz_requests
from benchmarks.chaos.idle import freed_s
from benchmarks.chaos.replicas import growth, pids, sizes
from benchmarks.chaos.replies import client
from benchmarks.chaos.world import World

MAX_RSS_GROWTH = 1.1


@dataclass(frozen=True)
class FuzzReport:
    """`growth`: RSS afterwards relative to RSS before, of the worst replica of each application. `kept`: the
    growth of its footprint.

    The first round fills caches, so it is only reported. The second sends the same requests again; its
    figures, `*_repeated`, are judged.
    """

    sent: FuzzResult
    sent_repeated: FuzzResult
    pids_kept: bool
    growth: dict[str, float]
    growth_repeated: dict[str, float]
    kept_repeated: dict[str, Footprint]
    freed_s: float

    def broken(self) -> list[str]:
        problems = [
            f"{app}: RSS grew to {ratio:.2f} × during the repeated requests"
            for app, ratio in self.growth_repeated.items()
            if ratio > MAX_RSS_GROWTH
        ]
        problems += leaks(self.kept_repeated, self.sent_repeated.num_requests)
        problems += [] if self.pids_kept else ["a replica was restarted"]
        return [*self.sent.broken(), *self.sent_repeated.broken(), *problems]


async def fuzz(world: World, *, num_requests: int, seed: int) -> FuzzReport:
    await world.settled()
    replicas = world.running()
    before = sizes(replicas)
    report = await asyncio.to_thread(send_fuzz_requests, world.url, num_requests, seed)
    between, footprint_before = sizes(replicas), await world.census()
    repeated = await asyncio.to_thread(send_fuzz_requests, world.url, num_requests, seed)
    async with client(world.url) as http:
        free_s = await freed_s(http, time.monotonic())
    return FuzzReport(
        sent=report,
        sent_repeated=repeated,
        pids_kept=pids(replicas) == pids(world.running()),
        growth=growth(before, between),
        growth_repeated=growth(between, sizes(replicas)),
        kept_repeated=footprint_growth(footprint_before, await world.census(), replicas),
        freed_s=free_s,
    )
