"""The loss of a set of expert rows over cached states: exact, convex, and a few matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.learn.states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken


class TokenLoss:
    """Cross entropy over the head [W_V; W_E], with W_V and every row not in `names` frozen.

    Per position, with s = h·w + b over the learned rows, Z = log_z and frozen rows folded into Z:
    logaddexp(Z, logsumexp(s)) − s_e for target expert e, − z_t for target word t. Every position weighs the
    same: one word that hands over falsely spoils an answer, and favoured hand-overs would do so more often.
    Everything is float64 on the CPU.
    """

    def __init__(self, states: States, names: Sequence[str], frozen: Sequence[ExpertToken] = ()) -> None:
        self.hidden = states.hidden.double()
        frozen_scores = expert_scores(self.hidden, frozen)
        self.log_z = torch.logaddexp(states.log_z.double(), frozen_scores.logsumexp(dim=-1))
        column = {name: index for index, name in enumerate(names)}
        frozen_column = {token.name: index for index, token in enumerate(frozen)}
        self.target = torch.full_like(states.expert, WORD)
        self.fixed_logit = states.target_logit.double()
        for index, name in enumerate(states.expert_names):
            rows = states.expert == index
            if name in column:
                self.target[rows] = column[name]
            else:
                self.fixed_logit[rows] = frozen_scores[rows, frozen_column[name]]

    def __call__(self, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss and its gradients by `weight` [E, d] and `bias` [E]."""
        scores = self.hidden @ weight.T + bias
        total = torch.logaddexp(self.log_z, scores.logsumexp(dim=-1))
        rows = (self.target != WORD).nonzero()[:, 0]
        columns = self.target[rows]
        logit = self.fixed_logit.clone()
        logit[rows] = scores[rows, columns]
        by_score = (scores - total[:, None]).exp_()
        by_score[rows, columns] -= 1
        by_score /= len(total)
        return float((total - logit).mean()), by_score.T @ self.hidden, by_score.sum(dim=0)


def expert_scores(hidden: Tensor, tokens: Sequence[ExpertToken]) -> Tensor:
    """float64 [N, E]: h·w + b of every token; E may be 0."""
    if not tokens:
        return hidden.new_empty((len(hidden), 0), dtype=torch.float64)
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens], dtype=torch.float64)
    return hidden.double() @ weight.T + bias
