"""Links between hosts fail: answers stay whole, the cluster heals by itself, and no router serves forever."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from collections.abc import Iterator

import pytest

from benchmarks.chaos.replies import Ending, Reply, ask, client
from benchmarks.hosts.faults import FAULTS
from benchmarks.hosts.measurement import ANSWER_DEADLINE_S, measure
from benchmarks.hosts.world import World, hosts_world

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(900)]

MAX_TABLE_AGE_S = 60.0  # the lowest that cluster.yaml may have
LATE_S = 30.0  # on a busy machine
PAUSE_S = 1.0


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    lacks = [program for program in ("ip", "nft", "nsenter") if not shutil.which(program)]
    if os.geteuid() or lacks:
        needed = f"the programs {lacks}" if lacks else "root"
        pytest.skip(f"!!! NO link between hosts is tested: that needs {needed} !!!")
    with hosts_world(max_table_age_s=MAX_TABLE_AGE_S) as world:
        yield world


def test_answers_are_whole_while_a_link_swallows_everything_and_the_cluster_heals(world: World):
    measurement = measure(world, FAULTS["router - expert: cut"], hold_s=10.0, num_streams=40)
    report = world.from_clients(lambda: asyncio.run(measurement))
    assert report.broken() == []
    assert report.heal_s < 30.0


def test_a_router_without_the_head_answers_and_then_refuses_because_its_table_may_be_withdrawn(world: World):
    with FAULTS["head: alone"](world):
        began_s = time.monotonic()
        refusal = world.from_clients(lambda: asyncio.run(first_refusal(world)))
        took_s = time.monotonic() - began_s
    assert refusal.error is not None
    assert refusal.error["code"] == "table_stale"
    assert MAX_TABLE_AGE_S / 2 < took_s < MAX_TABLE_AGE_S + LATE_S


async def first_refusal(world: World) -> Reply:
    """Every answer before it must be whole."""
    async with client(world.url()) as http:
        while True:
            reply = await ask(http, world.questions[0], ANSWER_DEADLINE_S)
            if reply.ending(world.known) is Ending.REFUSED:
                return reply
            assert reply.ending(world.known) is Ending.WHOLE, reply.describe()
            await asyncio.sleep(PAUSE_S)
