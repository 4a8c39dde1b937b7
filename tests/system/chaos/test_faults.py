"""Short runs of the scenarios of `benchmarks.chaos`, with the same promises."""

from __future__ import annotations

import pytest

from benchmarks.chaos.disconnecting_clients import disconnecting_clients
from benchmarks.chaos.hang import hang
from benchmarks.chaos.head import controller
from benchmarks.chaos.kills import kills
from benchmarks.chaos.overload import overload
from benchmarks.chaos.overload_report import LATER, MODEST
from benchmarks.chaos.replies import Ending
from benchmarks.chaos.world import World

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


async def test_disconnecting_clients_release_their_slots(world: World):
    report = await disconnecting_clients(world, num_requests=40, num_at_once=16, seed=1)
    assert report.broken() == []
    assert sum(report.num_disconnected.values()) >= 20


async def test_excess_requests_are_refused_and_accepted_ones_are_answered(world: World):
    report = await overload(world, burst_s=8.0, measure_s=3.0)
    # Latency is measured by the benchmark, on an idle machine.
    bad = (Ending.CUT, Ending.TRUNCATED, Ending.DOUBLED, Ending.WRONG, Ending.HUNG)
    assert {end: report.endings[end] for end in bad} == dict.fromkeys(bad, 0)
    assert report.endings[Ending.REFUSED] > 0
    assert report.num_malformed_refusals == 0
    assert report.share(LATER) < report.share(MODEST)


async def test_answers_continue_without_serves_controller(world: World):
    report = await controller(world, num_clients=4)
    assert report.broken() == []


async def test_no_answer_loses_text_when_replicas_are_killed(world: World):
    # On a fast machine the requests take three seconds.
    report = await kills(world, num_requests=120, num_at_once=16, period_s=0.8, seed=1)
    assert report.broken() == []
    assert sum(report.num_kills.values()) >= 1


async def test_a_hung_replica_is_avoided_and_replaced(world: World):
    report = await hang(world, expert="roman", num_replicas=1, on_unavailable="meta", num_clients=4)
    assert report.broken() == []
