"""Homes of conversations: everybody finds the same one, few move, and none is clearly busier than another."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from deployments.affinity import (
    KEEPS_PREFIXES,
    MAX_CHARACTERS,
    MAX_IDS,
    MAX_MESSAGES,
    MAX_TEXT_CHARACTERS,
    SLACK_PART,
    conversation,
    not_too_busy,
    ranked,
)
from deployments.model import ModelServer
from experts.engine.base import Call, Resumed
from tests.grpc_replica import ScriptedEngine

names = st.lists(st.text("abcdef0123456789", min_size=1), min_size=1, max_size=12, unique=True)
keys = st.binary(min_size=16, max_size=16)


def chat(*turns: tuple[str, str]) -> Call:
    return Call("r", messages=tuple({"role": role, "content": text} for role, text in turns))


FIRST = chat(("system", "be brief"), ("user", "hello"))


@given(keys, names, st.randoms())
def test_everybody_ranks_alike_in_whatever_order_replicas_are_seen(key, replicas, random):
    seen = list(replicas)
    random.shuffle(seen)
    assert ranked(key, seen) == ranked(key, replicas)


@given(keys, names)
def test_whoever_goes_leaves_the_order_of_the_others_as_it_was(key, replicas):
    order = ranked(key, replicas)
    for gone in replicas:
        assert ranked(key, [one for one in replicas if one != gone]) == [one for one in order if one != gone]


def test_conversations_are_spread_evenly():
    replicas = [f"replica-{i}" for i in range(5)]
    homes = Counter(ranked(conversation(chat(("user", str(i)))), replicas)[0] for i in range(5000))
    assert all(850 < homes[one] < 1150 for one in replicas)


@given(
    st.lists(keys, min_size=1, max_size=200),
    st.integers(2, 6),
    st.integers(1, 64),
    st.lists(st.integers(0, 1000), max_size=100),
)
def test_nobody_gets_clearly_more_calls_than_the_idlest(asked, num_replicas, max_calls, ends):
    """Calls come and end in any order, and many are of one conversation."""
    load = {f"replica-{i}": 0 for i in range(num_replicas)}
    slack = max(1, max_calls // SLACK_PART)
    ends = list(ends)
    for key in asked:
        home = not_too_busy(ranked(key, load), load, max_calls)
        if home is None:
            assert min(load.values()) == max_calls
            continue
        load[home] += 1
        assert load[home] <= min(min(load.values()) + slack + 1, max_calls)
        busy = [one for one in load if load[one]]
        if ends:
            load[busy[ends.pop() % len(busy)]] -= 1


@given(keys, names)
def test_a_home_with_little_to_do_is_where_a_conversation_goes(key, replicas):
    order = ranked(key, replicas)
    assert not_too_busy(order, dict.fromkeys(replicas, 0), 16) == order[0]
    slack = 16 // SLACK_PART
    assert not_too_busy(order, dict.fromkeys(replicas, 3) | {order[0]: 3 + slack}, 16) == order[0]


@given(keys, names)
def test_past_a_busy_home_it_goes_to_the_next_in_its_order(key, replicas):
    assume(len(replicas) > 1)
    order = ranked(key, replicas)
    assert not_too_busy(order, dict.fromkeys(replicas, 0) | {order[0]: 9}, 16) == order[1]


def test_whose_load_is_not_known_is_passed_over():
    assert not_too_busy(["a", "b"], {"b": 3}, 16) == "b"
    assert not_too_busy(["a", "b"], {}, 16) is None


@pytest.mark.parametrize(
    "later",
    [
        chat(("system", "be brief"), ("user", "hello"), ("assistant", "yes?"), ("user", "what is 14?")),
        replace(FIRST, request_id="s", written="an answer that", position=3, allowed=("law",)),
        replace(FIRST, resumed=Resumed("so far", (1, 2), "t"), max_tokens=5, seed=1, temperature=0.5),
    ],
    ids=["turn", "span", "resumed"],
)
def test_a_conversation_is_known_again(later):
    assert conversation(later) == conversation(FIRST)


@pytest.mark.parametrize(
    "other",
    [
        chat(("system", "be brief"), ("user", "hallo")),
        chat(("system", "be long"), ("user", "hello")),
        chat(("user", "hello")),
        chat(("system", "be brief"), ("assistant", "hello")),
        chat(("systembe", " brief"), ("user", "hello")),
        replace(FIRST, adapter="law"),
        Call("r", text="hello"),
        Call("r", ids=(1, 2)),
    ],
)
def test_another_beginning_is_another_conversation(other):
    assert conversation(other) != conversation(FIRST)


def test_of_a_long_prompt_only_the_beginning_counts():
    def same(one: Call, other: Call) -> bool:
        return conversation(one) == conversation(other)

    text, ids, said = "x" * MAX_TEXT_CHARACTERS, tuple(range(MAX_IDS)), "x" * MAX_CHARACTERS
    assert same(Call("r", text=text), Call("r", text=text + "and more"))
    assert not same(Call("r", text=text), Call("r", text="y" + text))
    assert same(Call("r", ids=ids), Call("r", ids=(*ids, 1)))
    assert not same(Call("r", ids=ids), Call("r", ids=(7, *ids)))
    assert same(chat(("user", said)), chat(("user", said + "and more")))
    many = [("system", "be brief")] * MAX_MESSAGES
    assert same(chat(*many), chat(*many, ("user", "hello")))


def test_text_that_is_no_text_has_a_home_too():
    assert conversation(chat(("user", "\ud800"))) != conversation(chat(("user", "\udfff")))


async def test_a_replica_says_whether_its_engine_keeps_prefixes():
    for keeps in (True, False):
        server = ModelServer(ScriptedEngine([], keeps_prefixes=keeps))
        assert await server.record_replica_metadata() == {KEEPS_PREFIXES: keeps}
