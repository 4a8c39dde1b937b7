"""Learning expert tokens: the cached loss is the model's own, the fit is its minimum, and it routes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from experts.errors import DataError, TokenMismatch
from experts.learn import (
    RouteScores,
    compute_states,
    confusion,
    fit_tokens,
    judge,
    learn_tokens,
    require_labels,
    route,
    score_routes,
)
from experts.learn.loss import TokenLoss
from experts.learn.queries import dataset_digest
from experts.learn.targets import WORD, Targets, find_targets
from experts.token import ExpertToken, head_fingerprint
from tests.tiny.taught_meta import EXPERTS, query_set


def full_model_loss(model: PreTrainedModel, targets: list[Targets], rows: Tensor, bias: Tensor) -> Tensor:
    """The definition: one prompt at a time through the whole model, cross entropy over [W_V; W_E]."""
    losses = []
    for one in targets:
        hidden = model.base_model(torch.tensor([one.ids])).last_hidden_state[0, one.positions]
        words = model.get_output_embeddings()(hidden)
        logits = torch.cat([words, hidden @ rows.T + bias], dim=-1)
        goal = [w if e == WORD else words.shape[-1] + e for w, e in zip(one.words, one.experts, strict=True)]
        losses.append(cross_entropy(logits, torch.tensor(goal), reduction="none"))
    return torch.cat(losses).mean()


def test_the_cached_loss_and_gradients_are_those_of_the_whole_model(taught_model, renderer, queries, states):
    torch.manual_seed(1)
    rows = torch.randn(3, 32).mul(0.3).requires_grad_()
    bias = torch.randn(3).requires_grad_()
    targets = [find_targets(query, renderer, EXPERTS) for query in queries]
    expected = full_model_loss(taught_model, targets, rows, bias)
    expected_by_weight, expected_by_bias = torch.autograd.grad(expected, [rows, bias])
    loss, by_weight, by_bias = TokenLoss(states, EXPERTS)(rows.detach().double(), bias.detach().double())
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(by_weight.float(), expected_by_weight, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_bias.float(), expected_by_bias, atol=1e-5, rtol=1e-4)


def test_the_gradient_is_that_of_the_loss_with_and_without_frozen_rows(states):
    frozen = fit_tokens(states).tokens[:1]
    for names, kept in ((EXPERTS, []), (EXPERTS[1:], frozen)):
        loss = TokenLoss(states, names, kept)
        weight, bias = torch.randn(len(names), 32).double(), torch.randn(len(names)).double()
        direction, nudge = torch.randn_like(weight), 1e-5
        rise = loss(weight + nudge * direction, bias)[0] - loss(weight - nudge * direction, bias)[0]
        assert rise / (2 * nudge) == pytest.approx(float((loss(weight, bias)[1] * direction).sum()), abs=1e-7)


def test_the_fit_reaches_at_least_the_loss_of_many_steps_of_adam(states):
    found = fit_tokens(states, l2=0.2)
    l2 = 0.2 / len(states)
    loss = TokenLoss(states, EXPERTS)
    mean, scale = states.head_mean.double(), float(states.hidden.double().square().mean().sqrt())

    def penalised(weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        value, by_weight, by_bias = loss(weight, bias)
        penalty = scale**2 * (weight - mean).square().sum() + bias.square().sum()
        return (
            value + l2 * float(penalty),
            by_weight + 2 * l2 * scale**2 * (weight - mean),
            by_bias + 2 * l2 * bias,
        )

    weight = mean.repeat(3, 1).requires_grad_()
    bias = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weight, bias], lr=0.02)
    for _ in range(2000):
        value, weight.grad, bias.grad = penalised(weight.detach(), bias.detach())
        adam.step()
    assert found.converged
    assert found.losses[-1] <= value * (1 + 1e-3)
    assert value == pytest.approx(found.losses[-1], abs=1e-2)  # so Adam did converge
    assert found.losses == sorted(found.losses, reverse=True)
    vectors = torch.stack([token.vector for token in found.tokens]).double()
    biases = torch.tensor([token.bias for token in found.tokens]).double()
    assert penalised(vectors, biases)[0] == pytest.approx(found.losses[-1], abs=1e-6)


def test_the_default_fit_routes_queries_it_has_never_seen(taught_model, renderer, states):
    held_out = compute_states(taught_model, renderer, query_set(100, 30))
    scores = score_routes(held_out, fit_tokens(states).tokens)
    assert scores.accuracy >= 0.97
    assert scores.false_trigger_rate <= 0.02
    without = score_routes(held_out, [])
    assert (without.accuracy, without.no_handover, without.false_trigger_rate) == (0, 1, 0)


def test_routing_is_the_argmax_over_the_concatenated_head(taught_model, renderer, queries, states):
    tokens = fit_tokens(states, l2=4.0).tokens
    words = taught_model.get_output_embeddings()(states.hidden).detach()
    experts = states.hidden @ torch.stack([token.vector for token in tokens]).T
    experts += torch.tensor([token.bias for token in tokens])
    best = torch.cat([words, experts], dim=-1).argmax(dim=-1) - words.shape[-1]
    assert route(states, tokens).tolist() == best.clamp(min=-1).tolist()
    assert len(set(best.clamp(min=-1).tolist())) > 1


def test_an_added_expert_leaves_the_incumbents_bit_identical(states, queries):
    incumbents = fit_tokens(states).tokens[:2]
    before = [token.vector.clone() for token in incumbents]
    added = fit_tokens(states, incumbents=incumbents)
    assert [token.name for token in added.tokens] == ["roman"]
    for token, vector in zip(incumbents, before, strict=True):
        assert token.vector.view(torch.int32).tolist() == vector.view(torch.int32).tolist()
    assert score_routes(states, [*incumbents, *added.tokens]).accuracy >= 0.97
    with pytest.raises(DataError, match="no query names a new expert"):
        fit_tokens(states, incumbents=[*incumbents, *added.tokens])
    with pytest.raises(TokenMismatch, match="'chemistry'"):
        fit_tokens(states, incumbents=[replace(incumbents[0], meta_fingerprint="0" * 16)])


def test_early_and_wrong_hand_overs_are_counted_apart(states, queries):
    def eager(name: str) -> ExpertToken:
        return ExpertToken(name, torch.zeros(32), bias=1e6, meta_name="", meta_fingerprint="")

    scores = score_routes(states, [eager("roman")])
    greeted = sum(1 for query in queries if query.expert == "roman" and query.written) / sum(
        1 for query in queries if query.expert
    )
    assert scores.early == pytest.approx(greeted)
    assert scores.accuracy == pytest.approx(1 / 3 - greeted)
    assert scores.wrong_expert == pytest.approx(2 / 3)
    assert scores.false_trigger_rate == 1


def test_single_precision_finds_the_same_minimum(states):
    exact, single = (TokenLoss(states, EXPERTS, dtype=dtype) for dtype in (torch.float64, torch.float32))
    tokens = fit_tokens(states, l2=0.2).tokens
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens]).double()
    for wanted, found in zip(exact(weight, bias), single(weight, bias), strict=True):
        torch.testing.assert_close(torch.as_tensor(found), torch.as_tensor(wanted), atol=1e-5, rtol=1e-4)


def test_a_loss_computed_in_parts_is_the_whole_loss(states, monkeypatch):
    weight, bias = torch.randn(3, 32).double(), torch.randn(3).double()
    whole = TokenLoss(states, EXPERTS)(weight, bias)
    monkeypatch.setattr("experts.learn.loss._MAX_SCORES", 500)
    monkeypatch.setattr("experts.learn.loss._MAX_CONVERTED_BYTES", 0)
    in_parts = TokenLoss(states, EXPERTS)(weight, bias)
    assert in_parts[0] == pytest.approx(whole[0], rel=1e-12)
    torch.testing.assert_close(in_parts[1:], whole[1:])


def test_tokens_are_judged_on_queries_that_they_were_not_learned_from(taught_model, states, queries):
    steps: list[tuple[int, int, str]] = []
    report = learn_tokens(states, queries, progress=lambda *step: steps.append(step))
    assert report.names == EXPERTS
    assert report.num_train + report.num_held_out == len(queries)
    assert report.num_held_out == len(report.after) == round(0.2 * len(queries))
    assert {judgement.outcome for judgement in report.before} == {"none"}
    assert RouteScores.of(report.after).accuracy >= 0.95
    for token in report.tokens:
        token.require_meta("meta", head_fingerprint(taught_model.lm_head.weight), 32)
        assert token.dataset_digest == dataset_digest(queries)
        assert token.scores["held_out_accuracy"] >= 0.8
    assert {what for done, total, what in steps if done == total} == {"fit"}


def test_without_held_out_queries_the_scores_say_so(states, queries):
    report = learn_tokens(states, queries, held_out_share=0)
    assert report.num_held_out == 0
    assert len(report.after) == len(queries)
    assert report.tokens[0].scores["train_accuracy"] >= 0.97


def test_the_confusion_counts_every_query_once(states, queries):
    tokens = fit_tokens(states).tokens
    counts = confusion(judge(states, tokens[:2]), EXPERTS)
    assert sum(map(sum, counts)) == len(queries)
    assert [sum(row) for row in counts] == [30] * 4
    assert counts[0][0] == 30
    assert counts[2][2] == 0
    assert counts[3][3] == 30


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["chemistry", "morse"], "line 1: unknown expert 'roman'.*use one of chemistry, morse"),
        ([*EXPERTS, "weather"], "no query names expert 'weather'"),
    ],
)
def test_labels_that_do_not_fit_the_experts_are_refused(queries, names, complaint):
    with pytest.raises(DataError, match=complaint):
        require_labels(queries, names)


def test_a_fit_that_starts_from_tokens_finds_the_same_minimum_in_fewer_steps(states):
    before = fit_tokens(states).tokens
    cold, warm = fit_tokens(states, l2=0.03), fit_tokens(states, l2=0.03, start=before)
    assert len(warm.losses) < 0.8 * len(cold.losses)
    assert warm.losses[-1] == pytest.approx(cold.losses[-1], abs=1e-5)
    assert len(fit_tokens(states, start=before).losses) <= 2
    foreign = replace(before[0], meta_fingerprint="of another meta")
    with pytest.raises(TokenMismatch):
        fit_tokens(states, start=[foreign])
