"""Requests of every odd kind: nobody answers 500, nobody dies, nobody grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.faults.fuzz import FuzzReport, fuzz
from benchmarks.faults.idle import freed_s
from benchmarks.faults.replicas import growth, pids, sizes
from benchmarks.faults.replies import client
from benchmarks.faults.world import World

WARM_PART = 10  # a tenth of the requests comes before, with another seed: what is filled once is no growth
WANTED_GROWTH = 1.1


@dataclass(frozen=True)
class FuzzingReport:
    """`growth`: RSS afterwards as a multiple of RSS before, the worst replica of each application."""

    sent: FuzzReport
    pids_kept: bool
    growth: dict[str, float]
    freed_s: float

    def broken(self) -> list[str]:
        told = [f"{app} holds {by:.2f} × its memory" for app, by in self.growth.items() if by > WANTED_GROWTH]
        told += [] if self.pids_kept else ["a replica was restarted"]
        return [*self.sent.broken(), *told]


async def fuzzing(world: World, *, num_requests: int, seed: int) -> FuzzingReport:
    await world.settled()
    await asyncio.to_thread(fuzz, world.url, num_requests // WARM_PART, seed + 1)
    replicas = world.running()
    before = sizes(replicas)
    report = await asyncio.to_thread(fuzz, world.url, num_requests, seed)
    async with client(world.url) as http:
        free_s = await freed_s(http, time.monotonic())
    return FuzzingReport(
        sent=report,
        pids_kept=pids(replicas) == pids(world.running()),
        growth=growth(before, sizes(replicas)),
        freed_s=free_s,
    )
