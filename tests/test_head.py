"""The decision between writing on and handing over."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from experts.head import ExpertTable, ExtendedHead, decide, distribution
from experts.token import ExpertToken

V, E, D = 11, 4, 6
ALL = torch.ones(1, E, dtype=torch.bool)
NO_BIAS = torch.zeros(1, E)


def logits_of(*rows: list[float]) -> torch.Tensor:
    return torch.tensor(rows)


@given(arrays("float32", (3, V + E), elements=st.floats(-50, 50, width=32)))
def test_everything_allowed_and_no_bias_is_the_argmax_of_the_paper(values):
    logits = torch.from_numpy(values)
    decision = decide(logits, V, ALL.expand(3, E), NO_BIAS.expand(3, E))
    for row, expert in zip(logits, decision.expert.tolist(), strict=True):
        choice = int(row.argmax())  # the first of equals, so a word before an expert
        assert expert == (choice - V if choice >= V else -1)


@given(
    arrays("float32", (2, V + E), elements=st.floats(-50, 50, width=32)),
    st.lists(st.booleans(), min_size=E, max_size=E),
)
def test_an_expert_outside_the_allowed_set_never_wins_and_has_no_probability(values, allowed):
    logits, mask = torch.from_numpy(values), torch.tensor([allowed, allowed])
    decision = decide(logits, V, mask, NO_BIAS.expand(2, E))
    assert all(expert == -1 or allowed[expert] for expert in decision.expert.tolist())
    assert bool((distribution(logits, V, mask, NO_BIAS.expand(2, E))[~mask] == 0).all())


def test_the_probability_is_that_of_one_softmax_over_words_and_allowed_experts():
    logits = torch.randn(1, V + E)
    logits[0, V + 2] = 9.0
    allowed = torch.tensor([[True, False, True, True]])
    decision = decide(logits, V, allowed, NO_BIAS)
    masked = logits.clone()
    masked[0, V + 1] = float("-inf")
    assert int(decision.expert) == 2
    torch.testing.assert_close(decision.probability, masked.softmax(-1)[:, V + 2])
    torch.testing.assert_close(distribution(logits, V, allowed, NO_BIAS), masked.softmax(-1)[:, V:])


def test_a_bias_moves_the_decision_and_nothing_else():
    logits = torch.zeros(1, V + E)
    logits[0, 3] = 1.0
    assert int(decide(logits, V, ALL, NO_BIAS).expert) == -1
    assert int(decide(logits, V, ALL, torch.tensor([[0.0, 2.0, 0.0, 0.0]])).expert) == 1


def test_the_extended_head_is_the_concatenated_matrix():
    linear = nn.Linear(D, V, bias=False)
    head = ExtendedHead(linear)
    hidden = torch.randn(2, 3, D)
    torch.testing.assert_close(head(hidden), linear(hidden))
    tokens = [ExpertToken(f"e{i}", torch.randn(D), 0.5 * i, "meta", "fp") for i in range(E)]
    head.install(ExpertTable.of(1, tokens, D))
    matrix = torch.cat([linear.weight, torch.stack([token.vector for token in tokens])])
    bias = torch.tensor([0.0] * V + [token.bias for token in tokens])
    torch.testing.assert_close(head(hidden), hidden @ matrix.T + bias)
