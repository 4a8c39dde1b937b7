"""Conversation affinity: every router finds the same replica, few conversations move, the load is even."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deployments.model import ModelServer
from deployments.replicas.affinity import (
    KEEPS_PREFIXES,
    MAX_CHARACTERS,
    MAX_IDS,
    MAX_MESSAGES,
    MAX_TEXT_CHARACTERS,
    SLACK_DIVISOR,
    VOCABULARY,
    conversation_digest,
    least_busy_in_order,
    rank_replicas,
)
from experts.engine.request import EngineRequest, Resumed
from tests.fakes.grpc_replica import ScriptedEngine

names = st.lists(st.text("abcdef0123456789", min_size=1), min_size=1, max_size=12, unique=True)
keys = st.binary(min_size=16, max_size=16)


def chat(*turns: tuple[str, str]) -> EngineRequest:
    return EngineRequest("r", messages=tuple({"role": role, "content": text} for role, text in turns))


FIRST = chat(("system", "be brief"), ("user", "hello"))


@given(keys, names, st.randoms())
def test_the_ranking_does_not_depend_on_the_order_of_the_replicas(key, replicas, random):
    seen = list(replicas)
    random.shuffle(seen)
    assert rank_replicas(key, seen) == rank_replicas(key, replicas)


@given(keys, names)
def test_removing_a_replica_keeps_the_order_of_the_others(key, replicas):
    order = rank_replicas(key, replicas)
    for gone in replicas:
        assert rank_replicas(key, [one for one in replicas if one != gone]) == [
            one for one in order if one != gone
        ]


def test_conversations_are_spread_evenly():
    replicas = [f"replica-{i}" for i in range(5)]
    homes = Counter(
        rank_replicas(conversation_digest(chat(("user", str(i)))), replicas)[0] for i in range(5000)
    )
    assert all(850 < homes[one] < 1150 for one in replicas)


@given(
    st.lists(keys, min_size=1, max_size=200),
    st.integers(2, 6),
    st.integers(1, 64),
    st.lists(st.integers(0, 1000), max_size=100),
)
def test_no_replica_gets_clearly_more_calls_than_the_least_busy(asked, num_replicas, max_calls, ends):
    """Calls begin and end in any order, and many belong to one conversation."""
    load = {f"replica-{i}": 0 for i in range(num_replicas)}
    slack = max(1, max_calls // SLACK_DIVISOR)
    ends = list(ends)
    for key in asked:
        home = least_busy_in_order(rank_replicas(key, load), load, max_calls)
        if home is None:
            assert min(load.values()) == max_calls
            continue
        load[home] += 1
        assert load[home] <= min(min(load.values()) + slack + 1, max_calls)
        busy = [one for one in load if load[one]]
        if ends:
            load[busy[ends.pop() % len(busy)]] -= 1


@given(keys, names)
def test_a_conversation_goes_to_its_preferred_replica_if_that_is_not_busy(key, replicas):
    order = rank_replicas(key, replicas)
    assert least_busy_in_order(order, dict.fromkeys(replicas, 0), 16) == order[0]
    slack = 16 // SLACK_DIVISOR
    assert least_busy_in_order(order, dict.fromkeys(replicas, 3) | {order[0]: 3 + slack}, 16) == order[0]


@given(keys, names)
def test_a_conversation_goes_to_the_next_replica_if_the_preferred_is_busy(key, replicas):
    assume(len(replicas) > 1)
    order = rank_replicas(key, replicas)
    assert least_busy_in_order(order, dict.fromkeys(replicas, 0) | {order[0]: 9}, 16) == order[1]


def test_a_replica_whose_load_is_not_known_is_passed_over():
    assert least_busy_in_order(["a", "b"], {"b": 3}, 16) == "b"
    assert least_busy_in_order(["a", "b"], {}, 16) is None


@pytest.mark.parametrize(
    "later",
    [
        chat(("system", "be brief"), ("user", "hello"), ("assistant", "yes?"), ("user", "what is 14?")),
        replace(FIRST, request_id="s", written="an answer that", position=3, allowed=("law",)),
        replace(FIRST, resumed=Resumed("so far", (1, 2), "t"), max_tokens=5, seed=1, temperature=0.5),
    ],
    ids=["turn", "span", "resumed"],
)
def test_later_calls_of_a_conversation_have_the_same_digest(later):
    assert conversation_digest(later) == conversation_digest(FIRST)


@pytest.mark.parametrize(
    "other",
    [
        chat(("system", "be brief"), ("user", "hallo")),
        chat(("system", "be long"), ("user", "hello")),
        chat(("user", "hello")),
        chat(("system", "be brief"), ("assistant", "hello")),
        chat(("systembe", " brief"), ("user", "hello")),
        replace(FIRST, adapter="law"),
        EngineRequest("r", text="hello"),
        EngineRequest("r", ids=(1, 2)),
    ],
)
def test_a_prompt_with_another_beginning_has_another_digest(other):
    assert conversation_digest(other) != conversation_digest(FIRST)


def test_only_the_beginning_of_a_long_prompt_is_hashed():
    def same(one: EngineRequest, other: EngineRequest) -> bool:
        return conversation_digest(one) == conversation_digest(other)

    text, ids, said = "x" * MAX_TEXT_CHARACTERS, tuple(range(MAX_IDS)), "x" * MAX_CHARACTERS
    assert same(EngineRequest("r", text=text), EngineRequest("r", text=text + "and more"))
    assert not same(EngineRequest("r", text=text), EngineRequest("r", text="y" + text))
    assert same(EngineRequest("r", ids=ids), EngineRequest("r", ids=(*ids, 1)))
    assert not same(EngineRequest("r", ids=ids), EngineRequest("r", ids=(7, *ids)))
    assert same(chat(("user", said)), chat(("user", said + "and more")))
    many = [("system", "be brief")] * MAX_MESSAGES
    assert same(chat(*many), chat(*many, ("user", "hello")))


def test_lone_surrogates_can_be_hashed():
    assert conversation_digest(chat(("user", "\ud800"))) != conversation_digest(chat(("user", "\udfff")))


async def test_a_replica_reports_whether_its_engine_keeps_prefixes_and_its_vocabulary():
    for keeps, vocabulary in ((True, "v"), (False, None)):
        server = ModelServer(ScriptedEngine([], keeps_prefixes=keeps, vocabulary=vocabulary))
        said = {KEEPS_PREFIXES: keeps, VOCABULARY: vocabulary}
        assert await server.record_replica_metadata() == said
