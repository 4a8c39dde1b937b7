"""What the harness concludes from what it saw."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.faults.idle import is_idle
from benchmarks.faults.kills import Kills, report_of
from benchmarks.faults.replicas import Replica, Size, growth
from benchmarks.faults.replies import Reply
from benchmarks.faults.soak import slopes
from benchmarks.hot.answers import Answer, Question

QUESTION = Question.routed("ten?", None, "chaos")
ROUTER = Replica("router", 1, "node")
OTHER = Replica("router", 2, "node")


def test_memory_that_grows_with_every_request_has_a_slope_and_a_cache_that_fills_has_none():
    leak = [(i, 100 + i / 500) for i in range(0, 20_000, 200)]
    cache = [(i, 100 + min(i, 5000) / 100) for i in range(0, 20_000, 200)]
    assert slopes({ROUTER: leak, OTHER: cache}, 20_000) == pytest.approx({"router": 2.0})
    assert slopes({OTHER: cache}, 20_000) == pytest.approx({"router": 0.0}, abs=1e-9)


def test_growth_is_that_of_the_replica_that_grew_most():
    before = {ROUTER: Size(100, 9), OTHER: Size(100, 9)}
    assert growth(before, {ROUTER: Size(90, 9), OTHER: Size(130, 9)}) == {"router": 1.3}


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"num_running": 0, "num_queued": 0}, True),
        ({"num_running": 1, "num_queued": 0}, False),
        ({"num_running": 0, "num_queued": 1}, False),
        (None, False),
    ],
)
def test_a_model_that_does_not_tell_is_not_idle(model, expected):
    assert is_idle(model) is expected


def lost_connection(began_s: float, ended_s: float) -> Reply:
    return Reply(Answer(QUESTION, began_s, ended_s), status=200, broken="RemoteProtocolError: closed")


@pytest.mark.parametrize(
    ("killed", "num_unexplained"),
    [
        ([("router", 10.0)], 0),
        ([("meta", 10.0)], 1),  # any other is made good
        ([("router", 4.0)], 1),  # before it was asked
        ([("router", 11.0)], 1),  # after it had ended
        ([], 1),
    ],
)
def test_a_connection_may_break_only_when_a_router_was_killed_meanwhile(killed, num_unexplained):
    report = report_of([lost_connection(8.0, 10.5)], {}, Kills(killed), 20.0)
    assert report.num_unexplained == num_unexplained
    assert bool(report.broken()) == bool(num_unexplained)


def test_an_answer_that_is_cut_breaks_the_promise_whatever_was_killed():
    reply = replace(lost_connection(8.0, 10.5), broken=None, has_no_end=True)
    assert report_of([reply], {}, Kills([("router", 10.0)]), 20.0).broken() == ["1 answers cut"]
