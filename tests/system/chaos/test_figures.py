"""The conclusions that the harness draws from its figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.chaos.census import Footprint, footprint_growth, leaks
from benchmarks.chaos.disconnecting_clients import DisconnectsReport
from benchmarks.chaos.drain import DRAIN_S, DrainReport, Step
from benchmarks.chaos.idle import is_all_idle, is_idle
from benchmarks.chaos.kills import Kills, report_of
from benchmarks.chaos.replicas import ProcessSize, Replica, growth
from benchmarks.chaos.replies import Ending, Reply
from benchmarks.chaos.soak import MIN_JUDGED, SoakReport, slopes
from benchmarks.hot_change.answers import Answer, Question

QUESTION = Question.routed("ten?", None, "chaos")
ROUTER = Replica("router", 1, "node")
OTHER = Replica("router", 2, "node")


def test_a_leak_has_a_slope_and_a_cache_that_fills_has_none():
    leak = [(i, 100 + i / 500) for i in range(0, 20_000, 200)]
    cache = [(i, 100 + min(i, 5000) / 100) for i in range(0, 20_000, 200)]
    assert slopes({ROUTER: leak, OTHER: cache}, 20_000) == pytest.approx({"router": 2.0})
    assert slopes({OTHER: cache}, 20_000) == pytest.approx({"router": 0.0}, abs=1e-9)


def test_growth_is_that_of_the_replica_that_grew_most():
    before = {ROUTER: ProcessSize(100, 9), OTHER: ProcessSize(100, 9)}
    assert growth(before, {ROUTER: ProcessSize(90, 9), OTHER: ProcessSize(130, 9)}) == {"router": 1.3}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"num_running": 0, "num_queued": 0}, True),
        ({"num_running": 1, "num_queued": 0}, False),
        ({"num_running": 0, "num_queued": 1}, False),
        (None, False),
    ],
)
def test_a_model_without_statistics_is_not_idle(model, expected):
    assert is_idle(model) is expected


def lost_connection(began_s: float, ended_s: float) -> Reply:
    return Reply(Answer(QUESTION, began_s, ended_s), status=200, broken="RemoteProtocolError: closed")


@pytest.mark.parametrize(
    ("killed", "num_unexplained"),
    [
        ([("router", 10.0, 10.0)], 0),
        ([("meta", 10.0, 10.0)], 1),  # the router resumes the answer
        ([("router", 4.0, 4.0)], 1),  # before the request
        ([("router", 11.0, 11.0)], 1),  # after the connection broke
        ([("router", 4.0, 9.0)], 0),  # with a node whose processes ended late
        ([], 1),
    ],
)
def test_a_connection_may_break_only_if_a_router_was_killed_during_the_request(killed, num_unexplained):
    report = report_of([lost_connection(8.0, 10.5)], {}, Kills(killed), 20.0)
    assert report.num_unexplained == num_unexplained
    assert bool(report.broken()) == bool(num_unexplained)


def test_an_answer_without_an_end_is_a_broken_promise_even_if_a_router_was_killed():
    reply = replace(lost_connection(8.0, 10.5), broken=None, has_no_end=True)
    assert report_of([reply], {}, Kills([("router", 10.0, 10.0)]), 20.0).broken() == ["1 answers cut"]


def kill_report(record: Kills) -> list[str]:
    reply = Reply(Answer(QUESTION, 0.0, 1.0, text="ten"), status=200)
    return report_of([reply], {QUESTION: {"ten"}}, record, 20.0).broken()


def test_a_node_that_was_not_killed_as_planned_is_a_broken_promise():
    assert kill_report(Kills([("meta", 0.5, 0.5)], num_nodes_to_kill=1, num_nodes=1)) == []
    assert kill_report(Kills([("meta", 0.5, 0.5)], num_nodes_to_kill=0, num_nodes=0)) == []
    assert kill_report(Kills([("meta", 0.5, 0.5)], num_nodes_to_kill=1, num_nodes=0)) != []


@pytest.mark.parametrize(
    ("queue", "expected"),
    [({"num_running": 0, "num_waiting": 0}, True), ({"num_running": 1, "num_waiting": 0}, False)],
)
def test_a_router_with_a_call_in_a_slot_is_not_idle(queue, expected):
    model = {"num_running": 0, "num_queued": 0}
    assert is_all_idle({"models": {"meta": model}, "admission": {"meta": queue}}) is expected


SMALL = Footprint(in_use_mb=0.1, num_objects=300, num_tasks=1, num_threads=0, num_fds=2)


def test_footprint_growth_is_that_of_the_replica_that_grew_most():
    before = {1: Footprint(60, 1000, 10, 5, 20), 2: Footprint(60, 1000, 10, 5, 20)}
    after = {
        1: Footprint(61, 900, 10, 5, 27),
        2: Footprint(60, 1500, 10, 5, 20),
        3: Footprint(99, 9, 9, 9, 9),
    }
    assert footprint_growth(before, after, [ROUTER, OTHER]) == {"router": Footprint(1, 500, 0, 0, 7)}


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, []),
        ({"in_use_mb": 2.5}, ["router keeps 0.25 MB in use per 1,000 requests"]),
        ({"num_objects": 20_000}, ["router keeps 2.0 objects per request"]),
        ({"num_tasks": 100}, ["router keeps 100 tasks"]),
        ({"num_threads": 100}, ["router keeps 100 threads"]),
        ({"num_fds": 100}, ["router keeps 100 files"]),
    ],
)
def test_what_one_request_in_a_hundred_keeps_is_a_leak(more, expected):
    assert leaks({"router": replace(SMALL, **more)}, 10_000) == expected


def soaked(num: int, slope: float, kept: Footprint = SMALL) -> SoakReport:
    slopes = {"router": 0.1, "expert-roman": slope}
    return SoakReport({"whole": num}, 0, 20.0, slopes, {}, {}, {"router": kept}, 0.1, True, [])


def slope_of(leaked_bytes: int, num_requests: int, part: float) -> float:
    """The slope of a replica that gets this part of all requests and leaks this much for each."""
    samples = [
        (i, 500 + i * part * leaked_bytes / 2**20) for i in range(0, num_requests, num_requests // 100)
    ]
    return slopes({ROUTER: samples}, num_requests)["router"]


def test_five_kilobytes_per_request_are_a_leak_even_in_a_replica_with_a_sixth_of_the_requests():
    assert soaked(20_000, slope_of(5000, 20_000, 1 / 6)).broken() == [
        "expert-roman grows by 0.79 MB per 1,000 requests"
    ]
    assert soaked(20_000, slope_of(500, 20_000, 1 / 2)).broken() == []


def test_a_soak_reports_memory_in_use_that_rss_does_not_show():
    kept = replace(SMALL, in_use_mb=2.5)
    assert soaked(20_000, 0.1, kept).broken() == ["router keeps 0.25 MB in use per 1,000 requests"]


def test_the_slope_of_a_short_soak_is_not_judged():
    assert soaked(MIN_JUDGED - 1, 50.0).broken() == []
    assert soaked(MIN_JUDGED, 50.0).broken() != []


def counts(**counted: int) -> dict[str, int]:
    return {ending.value: counted.get(ending.value, 0) for ending in Ending}


def broken_by_disconnects(num_disconnected: dict[str, int], endings: dict[str, int]) -> list[str]:
    return DisconnectsReport(num_disconnected, 1, 0.2, endings).broken()


def test_without_disconnects_or_later_answers_nothing_was_tested():
    assert broken_by_disconnects({"with n > 1": 3}, counts(whole=9)) == []
    assert broken_by_disconnects({}, counts(whole=9)) == ["no client disconnected, so nothing was tested"]
    assert broken_by_disconnects({"with n > 1": 3}, counts()) == [
        "afterwards: no answer, so nothing was tested"
    ]
    assert broken_by_disconnects({"with n > 1": 3}, counts(whole=8, cut=1)) == ["afterwards: {'cut': 1}"]


WHOLE = Step(counts(whole=6), num_under_way=6, took_s=5.0, longest_pause_s=0.3, examples=[])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (WHOLE, []),
        (replace(WHOLE, endings=counts(), num_under_way=0), ["removed: no answer, so nothing was tested"]),
        (replace(WHOLE, num_under_way=0), ["removed: no answer was under way, so nothing was tested"]),
        (replace(WHOLE, endings=counts(whole=5, error=1)), ["removed: {'error': 1}"]),
    ],
)
def test_each_step_of_a_drain_needs_answers_under_way_that_end_whole(step, expected):
    assert DrainReport(WHOLE, 5.0, WHOLE, 2, WHOLE, step).broken() == expected


@pytest.mark.parametrize(
    ("stopped_s", "num_cut_off", "expected"),
    [
        (5.0, 2, []),
        (5.0, 0, ["drained_too_soon: no answer lost its replica"]),
        (DRAIN_S + 0.1, 2, [f"drained: replicas still ran after {DRAIN_S} s"]),
    ],
)
def test_a_drain_ends_in_time_and_one_that_is_too_short_cuts_answers_off(stopped_s, num_cut_off, expected):
    assert DrainReport(WHOLE, stopped_s, WHOLE, num_cut_off, WHOLE, WHOLE).broken() == expected
