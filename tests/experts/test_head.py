"""The decision between continuing and handing over."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from experts.head import Decision, ExpertTable, ExtendedHead, decide, distribution
from experts.token import ExpertToken
from tests.tiny.heads import HEADS, HIDDEN_SIZE, model_with_head, with_expert_rows

V, E = 11, 4
ALL = torch.ones(1, E, dtype=torch.bool)
NO_BIAS = torch.zeros(1, E)


def decided(logits: torch.Tensor, allowed: torch.Tensor = ALL, bias: torch.Tensor = NO_BIAS) -> Decision:
    """Of logits [B, V + E]."""
    size = len(logits)
    rows = torch.arange(size)
    return decide(logits[:, :V], rows, logits[:, V:], allowed.expand(size, E), bias.expand(size, E))


@given(arrays("float32", (3, V + E), elements=st.floats(-50, 50, width=32)))
def test_with_all_experts_allowed_and_no_bias_it_is_the_argmax_of_the_paper(values):
    logits = torch.from_numpy(values)
    for row, expert in zip(logits, decided(logits).expert.tolist(), strict=True):
        choice = int(row.argmax())  # argmax takes the first of equal values, so a word before an expert
        assert expert == (choice - V if choice >= V else -1)


@given(
    arrays("float32", (2, V + E), elements=st.floats(-50, 50, width=32)),
    st.lists(st.booleans(), min_size=E, max_size=E),
)
def test_an_expert_that_is_not_allowed_never_wins_and_has_probability_0(values, allowed):
    logits, mask = torch.from_numpy(values), torch.tensor([allowed, allowed])
    assert all(expert == -1 or allowed[expert] for expert in decided(logits, mask).expert.tolist())
    found = distribution(logits[:, :V], torch.arange(2), logits[:, V:], mask, NO_BIAS.expand(2, E))
    assert bool((found[~mask] == 0).all())


@given(arrays("float32", (4, V + E), elements=st.floats(-50, 50, width=32)), st.permutations(range(4)))
def test_some_rows_of_bfloat16_words_are_decided_like_their_float32_copy(values, order):
    logits = torch.from_numpy(values)
    words, rows = logits[:, :V].bfloat16(), torch.tensor(order[:3])
    settings = ALL.expand(3, E), NO_BIAS.expand(3, E)
    found = decide(words, rows, logits[rows, V:], *settings)
    copied = decided(torch.cat([words.float(), logits[:, V:]], dim=-1)[rows])
    assert found.expert.tolist() == copied.expert.tolist()
    torch.testing.assert_close(found.probability, copied.probability)


def test_the_probability_is_from_one_softmax_over_words_and_allowed_experts():
    logits = torch.randn(1, V + E)
    logits[0, V + 2] = 9.0
    allowed = torch.tensor([[True, False, True, True]])
    decision = decided(logits, allowed)
    masked = logits.clone()
    masked[0, V + 1] = float("-inf")
    assert int(decision.expert) == 2
    torch.testing.assert_close(decision.probability, masked.softmax(-1)[:, V + 2])
    found = distribution(logits[:, :V], torch.tensor([0]), logits[:, V:], allowed, NO_BIAS)
    torch.testing.assert_close(found, masked.softmax(-1)[:, V:])


def test_a_bias_can_make_an_expert_win():
    logits = torch.zeros(1, V + E)
    logits[0, 3] = 1.0
    assert int(decided(logits).expert) == -1
    assert int(decided(logits, bias=torch.tensor([[0.0, 2.0, 0.0, 0.0]])).expert) == 1


def table_of(vectors: torch.Tensor, biases: torch.Tensor) -> ExpertTable:
    pairs = zip(vectors, biases.tolist(), strict=True)
    tokens = [ExpertToken(f"e{i}", vector, bias, "meta", "fp") for i, (vector, bias) in enumerate(pairs)]
    return ExpertTable.of(1, tokens, vectors.shape[1])


@pytest.mark.parametrize("takes_rows", [True, False])
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_expert_logits_are_those_of_a_model_whose_head_has_the_rows(kind, takes_rows):
    """`takes_rows`: whether the model computes logits only at the positions that it is asked for."""
    torch.manual_seed(1)
    vectors, biases = torch.randn(E, HIDDEN_SIZE), torch.randn(E)
    ids, kept = torch.tensor([[3, 4, 5, 6, 7]]), torch.tensor([1, 3, 4])
    model = model_with_head(kind, V)
    head = ExtendedHead(model)
    head.install(table_of(vectors, biases))
    asked = {"logits_to_keep": kept} if takes_rows else {}
    words = model(ids, logits_indices=kept, **asked).logits[0]
    inputs = head.inputs(3, [2, 0]), head.inputs(3, [0, 1, 2])
    found, all_found = (head.table.logits(each, head.transform) for each in inputs)
    whole = with_expert_rows(model, vectors, biases)(ids).logits[0, kept]
    torch.testing.assert_close(words if takes_rows else words[kept], whole[:, : head.num_words])
    torch.testing.assert_close(found, whole[[2, 0], head.num_words :])
    torch.testing.assert_close(all_found, whole[:, head.num_words :])


@torch.no_grad()
def test_small_biases_count_in_a_bfloat16_model():
    """Regression: expert scores were rounded to bfloat16, which has steps of 0.125 from 16 to 32."""
    model = model_with_head("plain", V).bfloat16()
    head = ExtendedHead(model)
    ids = torch.tensor([[3, 4, 5]])
    words = model(ids, logits_to_keep=1).logits[0].float()
    hidden = head._hidden[0, 0].float()
    row = 20.0 * hidden / (hidden @ hidden)
    biases = torch.tensor([-0.01, 0.01, 0.02, 0.0])
    head.install(table_of(row.expand(E, -1).clone(), biases))
    experts = head.table.logits(head.inputs(1, [0]), head.transform)
    torch.testing.assert_close(experts[0], 20.0 + biases, atol=1e-4, rtol=0)
    words[:] = 20.0  # in bfloat16 all of these would be ties, which the word wins
    assert int(decide(words.bfloat16(), torch.tensor([0]), experts, ALL, NO_BIAS).expert) == 2
