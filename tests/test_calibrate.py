"""Biases for a chosen rate of false hand-overs, and the split that they are chosen on."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experts.errors import DataError
from experts.learn import calibrate, fit_tokens, score_routes, split_queries
from tests.taught_meta import query, query_set


@pytest.fixture(scope="module")
def tokens(states):
    return fit_tokens(states).tokens


def test_tokens_that_call_too_often_are_calmed_to_the_chosen_rate(states, tokens):
    eager = [replace(token, bias=token.bias + 30) for token in tokens]
    assert score_routes(states, eager).false_trigger_rate > 0.5
    for rate in (0.0, 0.1):
        found = calibrate(states, eager, rate)
        scores = score_routes(states, found.tokens, found.call_bias)
        assert scores.false_trigger_rate <= rate
        assert scores.accuracy >= 0.97


def test_tokens_that_never_call_are_encouraged(states, tokens):
    shy = [replace(token, bias=token.bias - 30) for token in tokens]
    assert score_routes(states, shy).accuracy < 0.5
    found = calibrate(states, shy, 0.05)
    scores = score_routes(states, found.tokens, found.call_bias)
    assert scores.accuracy >= 0.97
    assert scores.false_trigger_rate <= 0.05


def test_one_bias_out_of_scale_is_put_right_without_touching_the_vectors(states, tokens):
    loud = [replace(tokens[0], bias=tokens[0].bias + 30), *tokens[1:]]
    assert score_routes(states, loud).wrong_expert > 0.3
    found = calibrate(states, loud, 0.0)
    assert score_routes(states, found.tokens, found.call_bias).accuracy >= 0.97
    for before, after in zip(loud, found.tokens, strict=True):
        assert torch.equal(before.vector, after.vector)


def test_good_tokens_get_no_call_bias(states, tokens):
    assert calibrate(states, tokens, 0.01).call_bias == 0


def test_incumbents_compete_but_keep_their_biases(states, tokens):
    newcomer = replace(tokens[0], bias=tokens[0].bias + 30)
    found = calibrate(states, [newcomer], 0.0, tokens[1:])
    assert [token.name for token in found.tokens] == [newcomer.name]
    assert score_routes(states, [*found.tokens, *tokens[1:]], found.call_bias).accuracy >= 0.97


def test_a_rate_cannot_be_kept_without_queries_to_count_it_on(states, queries, tokens):
    wanted = [i for i, one in enumerate(queries) if one.expert]
    general = [i for i, one in enumerate(queries) if not one.expert]
    with pytest.raises(DataError, match="no held-out query is nobody's.*add general chat"):
        calibrate(states.of_queries(wanted), tokens, 0.01)
    with pytest.raises(DataError, match="no held-out query is an expert's"):
        calibrate(states.of_queries(general), tokens, 0.01)
    with pytest.raises(DataError, match=r"false-trigger rate 1 is not in \[0, 1\)"):
        calibrate(states, tokens, 1.0)


sizes = st.dictionaries(st.sampled_from([None, "morse", "roman"]), st.integers(1, 30), min_size=1)


@given(sizes, st.floats(0, 0.99), st.randoms(use_true_random=False))
def test_every_query_is_on_one_side_and_every_expert_on_both(sizes, share, random):
    queries = [query(f"{name} {i}", name) for name, size in sizes.items() for i in range(size)]
    train, held_out = split_queries(queries, share)
    assert sorted([*train, *held_out]) == list(range(len(queries)))
    for name, size in sizes.items():
        assert any(queries[i].expert == name for i in train)
        assert any(queries[i].expert == name for i in held_out) == (share > 0 and size > 1)
    shuffled = random.sample(queries, len(queries))
    assert asked(shuffled, split_queries(shuffled, share)[1]) == asked(queries, held_out)


def test_a_question_asked_twice_is_never_on_both_sides():
    queries = query_set(0, 20) * 2
    train, held_out = split_queries(queries, 0.3)
    assert asked(queries, train).isdisjoint(asked(queries, held_out))
    with pytest.raises(DataError, match=r"held-out share 1 is not in \[0, 1\)"):
        split_queries(queries, 1.0)


def asked(queries, indices):
    return {(queries[i].expert, queries[i].messages[0]["content"]) for i in indices}
