"""What a process knows of a model's replicas, whatever happens to them in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from deployments.replicas import (
    MAX_ENDED,
    Placement,
    ReplicaSet,
    probe_id,
    probed_replica,
    replicas_of,
)

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
def test_a_set_is_proven_by_an_answer_for_as_long_as_one_that_is_not_suspect_runs(events):
    known = ReplicaSet("chem")
    is_proven = False
    for event, what in events:
        match event:
            case "runs":
                known.now_running(what)
            case "suspect":
                known.suspect(what, "test")
            case "answered":
                known.answered(what)
                is_proven = is_proven or what in known.running
        is_proven = is_proven and bool(known.healthy)
        assert known.suspects <= known.running
        assert known.healthy == known.running - known.suspects
        assert known.is_proven is is_proven


def test_what_is_known_of_calls_is_bounded():
    known = ReplicaSet("chem")
    for i in range(MAX_ENDED + 10):
        known.place(f"r{i}", "a")
    assert known.placement("r9") == Placement()
    assert known.placement("r10") == Placement("a")


def test_all_who_ask_for_an_application_get_the_same_set():
    first = replicas_of("chem")
    assert replicas_of("chem") is first
    assert replicas_of("law") is not first


@given(st.text(min_size=1))
def test_the_id_of_a_question_names_its_replica(replica):
    assert probed_replica(probe_id(replica)) == replica
    assert probed_replica(probe_id()) is None
    assert probed_replica("chatcmpl-1-0") is None
