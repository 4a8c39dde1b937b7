"""Biases for a chosen rate of false hand-overs, and the split that they are chosen on."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experts.errors import DataError
from experts.learn import States, calibrate, compute_states, fit_tokens, score_routes, split_queries
from experts.learn.calibrate import rounding
from experts.learn.loss import expert_logits
from experts.learn.targets import WORD
from experts.token import ExpertToken
from tests.tiny.taught_meta import query, query_set


@pytest.fixture(scope="module")
def tokens(states):
    return fit_tokens(states).tokens


def test_tokens_that_hand_over_too_often_get_lower_biases(states, tokens):
    eager = [replace(token, bias=token.bias + 30) for token in tokens]
    assert score_routes(states, eager).false_trigger_rate > 0.5
    for rate in (0.0, 0.1):
        found = calibrate(states, eager, rate)
        scores = score_routes(states, found.tokens, found.call_bias)
        assert scores.false_trigger_rate <= rate
        assert scores.accuracy >= 0.97


def test_tokens_that_never_hand_over_get_higher_biases(states, tokens):
    shy = [replace(token, bias=token.bias - 30) for token in tokens]
    assert score_routes(states, shy).accuracy < 0.5
    found = calibrate(states, shy, 0.05)
    scores = score_routes(states, found.tokens, found.call_bias)
    assert scores.accuracy >= 0.97
    assert scores.false_trigger_rate <= 0.05


def test_one_bias_out_of_scale_is_corrected_and_the_vectors_stay(states, tokens):
    loud = [replace(tokens[0], bias=tokens[0].bias + 30), *tokens[1:]]
    assert score_routes(states, loud).wrong_expert > 0.3
    found = calibrate(states, loud, 0.0)
    assert score_routes(states, found.tokens, found.call_bias).accuracy >= 0.97
    for before, after in zip(loud, found.tokens, strict=True):
        assert torch.equal(before.vector, after.vector)


def test_good_tokens_get_no_call_bias(states, tokens):
    assert calibrate(states, tokens, 0.01).call_bias == 0


def test_incumbents_compete_but_keep_their_biases(states, tokens):
    new = replace(tokens[0], bias=tokens[0].bias + 30)
    found = calibrate(states, [new], 0.0, tokens[1:])
    assert [token.name for token in found.tokens] == [new.name]
    assert score_routes(states, [*found.tokens, *tokens[1:]], found.call_bias).accuracy >= 0.97


def test_a_rate_cannot_be_kept_without_queries_to_count_it_on(states, queries, tokens):
    with_expert = [i for i, query in enumerate(queries) if query.expert]
    general = [i for i, query in enumerate(queries) if not query.expert]
    with pytest.raises(DataError, match="no held-out query is without an expert.*add general chat"):
        calibrate(states.of_queries(with_expert), tokens, 0.01)
    with pytest.raises(DataError, match="no held-out query is for an expert"):
        calibrate(states.of_queries(general), tokens, 0.01)
    with pytest.raises(DataError, match=r"false-trigger rate 1 is not in \[0, 1\)"):
        calibrate(states, tokens, 1.0)


def margins(states: States, tokens: list[ExpertToken]) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 [N]: of the best expert over the best word, and how far rounding may move it."""
    logit, best = expert_logits(states, tokens).max(dim=-1)
    return logit - states.max_logit, rounding(states, tokens, best)


@pytest.mark.parametrize("resolution", [2**-23, 2**-7])
def test_no_general_query_is_so_near_a_hand_over_that_rounding_could_tip_it(states, tokens, resolution):
    """Regression: the bias was exactly the margin of one of them."""
    rounded = replace(states, resolution=resolution)
    found = calibrate(rounded, [replace(token, bias=token.bias + 30) for token in tokens], 0.0)
    margin, moves = margins(rounded, found.tokens)
    last = rounded.query.diff(append=torch.tensor([-1])) != 0
    general = torch.isin(rounded.query, rounded.query[last & (rounded.expert == WORD)])
    assert bool((margin + found.call_bias <= -moves * (1 - 1e-9))[general].all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_false_trigger_rate_of_0_is_0_in_a_pass_that_rounds_otherwise(
    taught_model, renderer, queries, dtype
):
    """As an engine does, which has other batches and another attention."""
    model = copy.deepcopy(taught_model).to(dtype)
    states = compute_states(model, renderer, queries)
    eager = [replace(token, bias=token.bias + 30) for token in fit_tokens(states).tokens]
    found = calibrate(states, eager, 0.0)
    model.set_attn_implementation("eager")
    served = compute_states(model, renderer, queries, batch_size=7)
    assert score_routes(served, found.tokens, found.call_bias).false_trigger_rate == 0
    (margin, moves), (served_margin, _) = (margins(rows, found.tokens) for rows in (states, served))
    assert 0 < float(((served_margin - margin).abs() / moves).max()) < 1


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
