"""Learning on metas whose heads scale or cap their logits, have a bias, or are quantised."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from experts.checkpoint import Checkpoint
from experts.learn import States, cache_states, compute_states, fit_tokens, route
from experts.learn.loss import TokenLoss, expert_logits
from experts.learn.targets import ANY_WORD, WORD, find_targets
from experts.logit_transform import LogitTransform
from experts.token import ExpertToken
from tests.tiny.heads import HEADS, HIDDEN_SIZE, SCALED, model_with_head, with_expert_rows
from tests.tiny.taught_meta import EXPERTS, query_set


@pytest.fixture(scope="module")
def few():
    return [query for query in query_set(0, 6) if query.expert or query.written]


@pytest.fixture(scope="module", params=HEADS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(kind, renderer) -> PreTrainedModel:
    return model_with_head(kind, len(renderer.tokenizer))


@pytest.fixture(scope="module")
def states(model, renderer, few) -> States:
    return compute_states(model, renderer, few, batch_size=5)


def whole_logits(model: PreTrainedModel, renderer, queries, rows: Tensor, bias: Tensor) -> list[Tensor]:
    """The definition: one prompt at a time through a model whose head is [W_V; W_E]."""
    extended = with_expert_rows(copy.deepcopy(model), rows, bias)
    targets = [find_targets(query, renderer, EXPERTS) for query in queries]
    return [extended(torch.tensor([one.ids])).logits[0, one.positions] for one in targets]


def whole_loss(model: PreTrainedModel, renderer, queries, rows: Tensor, bias: Tensor) -> Tensor:
    num_words = model.get_output_embeddings().out_features
    losses = []
    for query, logits in zip(queries, whole_logits(model, renderer, queries, rows, bias), strict=True):
        one = find_targets(query, renderer, EXPERTS)
        assert ANY_WORD not in [w for w, e in zip(one.words, one.experts, strict=True) if e == WORD]
        goal = [w if e == WORD else num_words + e for w, e in zip(one.words, one.experts, strict=True)]
        losses.append(cross_entropy(logits, torch.tensor(goal), reduction="none"))
    return torch.cat(losses).mean()


def test_loss_and_gradients_are_those_of_the_whole_model(model, renderer, few, states):
    torch.manual_seed(1)
    rows = torch.randn(3, HIDDEN_SIZE).mul(0.3).requires_grad_()
    bias = torch.randn(3).requires_grad_()
    expected = whole_loss(model, renderer, few, rows, bias)
    by_rows, by_bias = torch.autograd.grad(expected, [rows, bias])
    found = TokenLoss(states, EXPERTS)(rows.detach().double(), bias.detach().double())
    assert found[0] == pytest.approx(expected.item(), abs=1e-5)
    torch.testing.assert_close(found[1].float(), by_rows, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found[2].float(), by_bias, atol=1e-5, rtol=1e-4)

    frozen = ExpertToken("roman", rows[2].detach(), bias[2].item(), "meta", "fp")
    beside = TokenLoss(states, EXPERTS[:2], [frozen])(rows[:2].detach().double(), bias[:2].detach().double())
    assert beside[0] == pytest.approx(found[0], abs=1e-7)
    torch.testing.assert_close(beside[1:], (found[1][:2], found[2][:2]))


def test_routes_are_the_argmax_of_the_whole_model(model, renderer, few, states):
    tokens = fit_tokens(states).tokens
    rows = torch.stack([token.vector for token in tokens])
    bias = torch.tensor([token.bias for token in tokens])
    with torch.no_grad():
        logits = torch.cat(whole_logits(model, renderer, few, rows, bias))
    num_words = logits.shape[-1] - len(tokens)
    torch.testing.assert_close(
        expert_logits(states, tokens).float(), logits[:, num_words:], atol=1e-4, rtol=1e-4
    )
    best = (logits.argmax(dim=-1) - num_words).clamp(min=-1)
    assert route(states, tokens).tolist() == best.tolist()
    assert len(set(best.tolist())) == 4


@pytest.mark.parametrize("kind", SCALED, indirect=True)
def test_the_fit_ends_where_the_gradient_is_0_from_any_start(kind, states):
    found = fit_tokens(states)
    assert found.converged
    assert found.losses == sorted(found.losses, reverse=True)
    torch.manual_seed(2)
    for _ in range(3):
        elsewhere = [
            replace(token, vector=token.vector + 0.1 * torch.randn(HIDDEN_SIZE), bias=1.0)
            for token in found.tokens
        ]
        again = fit_tokens(states, start=elsewhere)
        assert again.losses[-1] == pytest.approx(found.losses[-1], abs=1e-4)


def test_a_scale_changes_the_rows_and_not_what_they_decide(renderer, few):
    """A model that divides its scores by 6 is one with a smaller head, so the prior must be the same."""
    divides = model_with_head("divides", len(renderer.tokenizer), tie_word_embeddings=False)
    plain = model_with_head("divides", len(renderer.tokenizer), tie_word_embeddings=False, logits_scaling=1.0)
    plain.get_output_embeddings().weight.data /= 6
    scaled, unscaled = (compute_states(model, renderer, few) for model in (divides, plain))
    assert (scaled.transform, unscaled.transform) == (LogitTransform(0.166666667), LogitTransform())
    tokens = {name: fit_tokens(states).tokens for name, states in (("6", scaled), ("1", unscaled))}
    torch.testing.assert_close(
        expert_logits(scaled, tokens["6"]), expert_logits(unscaled, tokens["1"]), atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("kind", ["caps", "divides"], indirect=True)
def test_states_on_disk_know_the_scale_and_the_dtype(kind, model, renderer, few, states, tmp_path):
    model.save_pretrained(tmp_path / "meta")
    renderer.tokenizer.save_pretrained(tmp_path / "meta")
    kept = cache_states(Checkpoint(str(tmp_path / "meta"), dtype="bfloat16"), few, tmp_path / "states")
    assert kept.transform == states.transform
    assert (kept.resolution, states.resolution) == (2**-7, 2**-23)
    again = cache_states(Checkpoint(str(tmp_path / "meta"), dtype="bfloat16"), few, tmp_path / "states")
    assert (again.transform, again.resolution) == (kept.transform, kept.resolution)


def test_the_states_of_a_model_that_divides_its_heads_input_are_what_the_head_gets(
    renderer, few, monkeypatch
):
    """As MiniCPM does between its last layer and its head."""
    model = model_with_head("plain", len(renderer.tokenizer))
    plain = compute_states(model, renderer, few)
    inner = model.model.forward

    def forward(*args, **kwargs):
        output = inner(*args, **kwargs)
        output.last_hidden_state = output.last_hidden_state / 4
        return output

    monkeypatch.setattr(model.model, "forward", forward)
    torch.testing.assert_close(compute_states(model, renderer, few).hidden, plain.hidden / 4)


class Int8Linear(nn.Linear):
    """8-bit weights with a scale for each row, as libraries for quantisation keep them."""

    def __init__(self, head: nn.Linear) -> None:
        super().__init__(head.in_features, head.out_features, device="meta")
        self.scale = head.weight.detach().abs().amax(dim=1, keepdim=True) / 127
        self.weight = nn.Parameter((head.weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = head.bias

    def forward(self, hidden: Tensor) -> Tensor:
        return nn.functional.linear(hidden, self.weight * self.scale, self.bias)


def test_tokens_are_learned_beside_a_quantised_head(renderer, few):
    model = model_with_head("bias", len(renderer.tokenizer))
    whole = compute_states(model, renderer, few)
    model.set_output_embeddings(Int8Linear(model.lm_head))
    found = compute_states(model, renderer, few)
    torch.testing.assert_close(found.head_mean, whole.head_mean, atol=1e-3, rtol=0)
    torch.testing.assert_close(found.max_logit, whole.max_logit, atol=0.1, rtol=0)
    tokens = [fit_tokens(states).tokens for states in (found, whole)]
    assert route(found, tokens[0]).tolist() == route(whole, tokens[1]).tolist()
