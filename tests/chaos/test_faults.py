"""Short runs of the faults that `benchmarks.chaos` makes at length, with the same promises."""

from __future__ import annotations

import pytest

from benchmarks.faults.hang import hang
from benchmarks.faults.head import controller
from benchmarks.faults.kills import kills
from benchmarks.faults.leavers import leavers
from benchmarks.faults.overload import overload
from benchmarks.faults.replies import Ending
from benchmarks.faults.world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def test_clients_that_leave_free_all_that_they_held(world: World):
    report = await leavers(world, num_leavers=40, num_at_once=16, seed=1)
    assert report.broken() == []
    assert sum(report.num_left.values()) >= 20


async def test_a_burst_is_refused_at_once_and_what_is_accepted_is_answered(world: World):
    report = await overload(world, burst_s=5.0, measure_s=3.0)
    # How soon is for the benchmark to say, on a machine that does nothing else.
    ways = (Ending.CUT, Ending.TRUNCATED, Ending.DOUBLED, Ending.WRONG, Ending.HUNG)
    assert {end: report.endings[end] for end in ways} == dict.fromkeys(ways, 0)
    assert report.endings[Ending.REFUSED] > 0
    assert report.num_bare_refusals == 0


async def test_without_serves_controller_answers_go_on(world: World):
    report = await controller(world, num_clients=4)
    assert report.broken() == []


async def test_killed_replicas_cost_no_answer_a_letter(world: World):
    report = await kills(world, num_requests=120, num_at_once=16, period_s=1.0, seed=1)
    assert report.broken() == []
    assert sum(report.num_kills.values()) >= 1


async def test_a_replica_that_hangs_is_avoided_replaced_and_asked_again(world: World):
    report = await hang(world, expert="roman", num_replicas=1, when_away="meta", num_clients=4)
    assert report.broken() == []
