"""Requests of every odd kind: nobody answers 500, nobody dies, nobody grows."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from benchmarks.faults.census import Holding, grown, leaks
from benchmarks.faults.fuzz import FuzzReport, fuzz
from benchmarks.faults.idle import freed_s
from benchmarks.faults.replicas import growth, pids, sizes
from benchmarks.faults.replies import client
from benchmarks.faults.world import World

WANTED_GROWTH = 1.1


@dataclass(frozen=True)
class FuzzingReport:
    """`growth`: RSS afterwards as a multiple of RSS before, the worst replica of each application. `kept`:
    what replicas hold more than before, likewise.

    The first round fills what is filled once, and is reported only. What the very same requests add when
    they come `again` is judged.
    """

    sent: FuzzReport
    sent_again: FuzzReport
    pids_kept: bool
    growth: dict[str, float]
    growth_again: dict[str, float]
    kept_again: dict[str, Holding]
    freed_s: float

    def broken(self) -> list[str]:
        grown = {app: by for app, by in self.growth_again.items() if by > WANTED_GROWTH}
        told = [f"{app} holds {by:.2f} × its memory after the same again" for app, by in grown.items()]
        told += leaks(self.kept_again, self.sent_again.num_requests)
        told += [] if self.pids_kept else ["a replica was restarted"]
        return [*self.sent.broken(), *self.sent_again.broken(), *told]


async def fuzzing(world: World, *, num_requests: int, seed: int) -> FuzzingReport:
    await world.settled()
    replicas = world.running()
    before = sizes(replicas)
    report = await asyncio.to_thread(fuzz, world.url, num_requests, seed)
    between, held = sizes(replicas), await world.census()
    again = await asyncio.to_thread(fuzz, world.url, num_requests, seed)
    async with client(world.url) as http:
        free_s = await freed_s(http, time.monotonic())
    return FuzzingReport(
        sent=report,
        sent_again=again,
        pids_kept=pids(replicas) == pids(world.running()),
        growth=growth(before, between),
        growth_again=growth(between, sizes(replicas)),
        kept_again=grown(held, await world.census(), replicas),
        freed_s=free_s,
    )
