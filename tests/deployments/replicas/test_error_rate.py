"""Replicas that answer with errors are set aside for a while, unless too few others are left."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from deployments.replicas.error_rate import ErrorRate
from deployments.replicas.replica_set import ReplicaSet
from router.errors import InvalidRequest, ModelFailed, RouterError
from router.model_port import Finish
from router.outlier_rules import OutlierRules

RULES = OutlierRules(num_calls=4, error_share=0.5, aside_s=30)


@dataclass
class Clock:
    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s


def replicas(*names: str, clock: Clock | None = None) -> ReplicaSet:
    found = ReplicaSet("chem")
    found.errors = ErrorRate(clock or Clock())
    found.errors.rules = RULES
    found.set_running(names)
    return found


def call(found: ReplicaSet, replica: str, failure: RouterError | None) -> None:
    found.calls.began("r")
    found.calls.placed("r", replica)
    if failure is None:
        found.call_produced("r", None, Finish.STOP)
    else:
        found.call_failed("r", None, failure, "Error")
    found.calls.ended("r")


def test_a_replica_that_fails_more_often_than_it_may_is_set_aside():
    found = replicas("a", "b")
    for failure in (None, ModelFailed("no"), ModelFailed("no")):
        call(found, "a", failure)
    assert found.ejected == set(), "too few calls to judge by"
    call(found, "a", ModelFailed("no"))
    assert found.ejected == {"a"}
    assert found.healthy == {"b"}


def test_half_of_the_calls_may_fail():
    found = replicas("a", "b")
    for failure in (ModelFailed("no"), None) * 6:
        call(found, "a", failure)
    assert found.ejected == set()


def test_mistakes_of_clients_never_count():
    found = replicas("a", "b")
    for _ in range(20):
        call(found, "a", InvalidRequest("no"))
    assert found.ejected == set()


def test_a_replica_that_was_set_aside_returns_when_it_answers_after_its_time():
    found = replicas("a", "b", clock=(clock := Clock()))
    for _ in range(4):
        call(found, "a", ModelFailed("no"))
    call(found, "a", None)
    assert found.ejected == {"a"}, "an answer to an earlier call does not bring it back"
    clock.now_s += 31
    assert found.ejected == {"a"}, "it has to answer a probe"
    assert found.why_ejected == {"a": "too many of its calls fail"}
    call(found, "a", None)
    assert found.ejected == set() == found.why_ejected.keys()
    call(found, "a", ModelFailed("no"))
    assert found.ejected == set(), "its calls are counted anew"


@pytest.mark.parametrize(("names", "num_aside"), [("a", 0), ("ab", 1), ("abcd", 2)])
def test_no_more_than_a_share_of_the_replicas_is_set_aside(names: str, num_aside: int):
    found = replicas(*names)
    for name in names:
        for _ in range(8):
            call(found, name, ModelFailed("no"))
    assert len(found.ejected) == num_aside


def test_changed_rules_hold_from_the_next_call_on():
    found = replicas("a", "b")
    call(found, "a", ModelFailed("no"))
    found.errors.rules = OutlierRules(num_calls=2, error_share=0.5)
    call(found, "a", ModelFailed("no"))
    assert found.ejected == {"a"}
