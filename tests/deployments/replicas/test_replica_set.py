"""What a process knows of a model's replicas and their calls."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.replicas.call_placements import MAX_ENDED_CALLS, CallPlacement, CallPlacements
from deployments.replicas.probe_ids import is_probe, new_probe_id, probed_replica
from deployments.replicas.replica_set import ReplicaSet, replicas_of
from tests.support.steps import num_steps

NAMES = st.sampled_from("abc")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("runs"), st.frozensets(NAMES)),
        st.tuples(st.just("suspect"), NAMES),
        st.tuples(st.just("answered"), NAMES),
    ),
    max_size=30,
)


@given(EVENTS)
def test_a_set_is_verified_by_an_answer_for_as_long_as_a_healthy_replica_runs(events):
    known = ReplicaSet("chem")
    is_verified = False
    for event, what in events:
        match event:
            case "runs":
                known.set_running(what)
            case "suspect":
                known.eject(what, "test")
            case "answered":
                known.answered(what)
                is_verified = is_verified or what in known.running
        is_verified = is_verified and bool(known.healthy)
        assert known.ejected <= known.running
        assert known.healthy == known.running - known.ejected
        assert known.is_verified is is_verified


def test_only_the_latest_calls_are_remembered():
    calls = CallPlacements()
    for number in range(MAX_ENDED_CALLS + 10):
        calls.placed(f"r{number}", "a")
    assert calls.find("r9") == CallPlacement()
    assert calls.find("r10") == CallPlacement("a")


def test_all_parts_of_a_process_get_the_same_set_for_an_application():
    first = replicas_of("chem")
    assert replicas_of("chem") is first
    assert replicas_of("law") is not first


@given(st.text(min_size=1))
def test_the_id_of_a_probe_names_its_replica_and_is_unique(replica):
    directed, anywhere = new_probe_id(replica), new_probe_id()
    assert is_probe(directed)
    assert is_probe(anywhere)
    assert probed_replica(directed) == replica
    assert probed_replica(anywhere) is None
    assert len({directed, anywhere, new_probe_id(replica), new_probe_id()}) == 4


@pytest.mark.parametrize("request_id", ["chatcmpl-1-0", "probe", "probe-1-0", "probed 1 a"])
def test_the_id_of_an_answer_is_not_that_of_a_probe(request_id):
    assert not is_probe(request_id)
    assert probed_replica(request_id) is None


def test_a_new_adapter_costs_the_same_however_many_are_known():
    def cost(num_known: int) -> int:
        replicas = ReplicaSet("pool")
        known = [replicas.for_adapter(f"a{number}") for number in range(num_known)]
        steps = num_steps(lambda: known.append(replicas.for_adapter("new")))
        assert len({*known}) == num_known + 1
        return steps

    assert cost(1000) <= cost(10)
