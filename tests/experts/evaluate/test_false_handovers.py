"""False hand-overs by the kind of the general query."""

from __future__ import annotations

from experts.evaluate.false_handovers import (
    FalseHandovers,
    GeneralKind,
    count_false_handovers,
    general_kinds,
)
from experts.learn import Query, States
from experts.learn.routing_judge import Judgement
from tests.tiny.taught_meta import query

SHORT, LONG, NEIGHBOURING = GeneralKind


def test_general_queries_are_short_or_long_or_close_to_an_expert(states: States, queries: list[Query]):
    kinds = general_kinds(queries, states)
    assert {kind for kind, one in zip(kinds, queries, strict=True) if one.expert} == {None}
    assert {kind for kind, one in zip(kinds, queries, strict=True) if not one.expert} == {SHORT}
    # The same states, but the first question about iron is said to be a general one.
    relabelled = [
        query("iron or what? " * 3, None),
        *queries[1:3],
        query("a long day " * 4, None),
        *queries[4:],
    ]
    assert general_kinds(relabelled, states)[:4] == [NEIGHBOURING, None, None, LONG]


def test_each_kind_is_counted_apart():
    judgements = [
        Judgement(None, None),
        Judgement(None, "roman"),
        Judgement(None, "roman", early=True),
        Judgement("roman", "morse"),
    ]
    assert count_false_handovers(judgements, [SHORT, SHORT, NEIGHBOURING, None]) == {
        SHORT: FalseHandovers(2, 1),
        LONG: FalseHandovers(0, 0),
        NEIGHBOURING: FalseHandovers(1, 1),
    }
