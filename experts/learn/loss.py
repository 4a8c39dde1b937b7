"""The loss of a set of expert rows over cached states: exact, convex, and a few matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.learn.states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken

_MAX_CONVERTED_BYTES = 2**30  # above, hidden states are converted part by part, at every evaluation
_MAX_SCORES = 2**24  # at once: 128 MiB of float64
_CACHED_VALUES = 2**20  # of hidden states, read twice a step: the second time from the processor's cache


class TokenLoss:
    """Cross entropy over the head [W_V; W_E], with W_V and every row not in `names` frozen.

    Per position, with s = h·w + b over the learned rows, Z = log_z and frozen rows folded into Z:
    logaddexp(Z, logsumexp(s)) − s_e for target expert e, − z_t for target word t. Every position weighs the
    same: one word that hands over falsely spoils an answer, and favoured hand-overs would do so more often.
    Computes in `dtype` on `device`; arguments and results are float64 on the CPU.
    """

    def __init__(
        self,
        states: States,
        names: Sequence[str],
        frozen: Sequence[ExpertToken] = (),
        *,
        device: str = "cpu",
        dtype: torch.dtype = torch.float64,
    ) -> None:
        frozen_scores = expert_scores(states.hidden, frozen)
        log_z = torch.logaddexp(states.log_z.double(), frozen_scores.logsumexp(dim=-1))
        column = {name: index for index, name in enumerate(names)}
        frozen_column = {token.name: index for index, token in enumerate(frozen)}
        target = torch.full_like(states.expert, WORD)
        fixed_logit = states.target_logit.double()
        for index, name in enumerate(states.expert_names):
            rows = states.expert == index
            if name in column:
                target[rows] = column[name]
            else:
                fixed_logit[rows] = frozen_scores[rows, frozen_column[name]]
        fits = states.hidden.numel() * dtype.itemsize <= _MAX_CONVERTED_BYTES
        self._dtype = dtype
        self._hidden = states.hidden.to(device, dtype) if fits else states.hidden.to(device)
        self._log_z = log_z.to(device, dtype)
        self._target = target.to(device)
        self._fixed_logit = fixed_logit.to(device, dtype)

    def __call__(self, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Loss and its gradients by `weight` [E, d] and `bias` [E]."""
        weight_here, bias_here = (x.to(self._hidden.device, self._dtype) for x in (weight, bias))
        loss = 0.0
        by_weight, by_bias = torch.zeros_like(weight_here), torch.zeros_like(bias_here)
        num_rows = self._num_rows(*weight.shape)
        for start in range(0, len(self._hidden), num_rows):
            rows = slice(start, start + num_rows)
            hidden = self._hidden[rows].to(self._dtype)
            part, by_score = self._part(hidden @ weight_here.T + bias_here, rows)
            loss += part
            by_weight.addmm_(by_score.T, hidden)
            by_bias += by_score.sum(dim=0)
        size = len(self._hidden)
        return loss / size, by_weight.div_(size).to("cpu", torch.float64), by_bias.div_(size).cpu().double()

    def _num_rows(self, num_experts: int, dim: int) -> int:
        """Of a part: as many as the cache holds, unless products that small would waste the processor."""
        return max(1, min(max(_CACHED_VALUES // dim, num_experts), _MAX_SCORES // (dim + num_experts)))

    def _part(self, scores: Tensor, rows: slice) -> tuple[float, Tensor]:
        """Summed loss of some positions, and its gradient by their `scores`, whose memory it takes."""
        total = torch.logaddexp(self._log_z[rows], scores.logsumexp(dim=-1))
        target = self._target[rows]
        handed = (target != WORD).nonzero()[:, 0]
        logit = self._fixed_logit[rows].clone()
        logit[handed] = scores[handed, target[handed]]
        by_score = scores.sub_(total[:, None]).exp_()
        by_score[handed, target[handed]] -= 1
        return float((total - logit).sum()), by_score


def expert_scores(hidden: Tensor, tokens: Sequence[ExpertToken]) -> Tensor:
    """float64 [N, E]: h·w + b of every token; E may be 0."""
    if not tokens:
        return hidden.new_empty((len(hidden), 0), dtype=torch.float64)
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens], dtype=torch.float64)
    num_rows = max(1, _MAX_SCORES // hidden.shape[1])
    return torch.cat([rows.double() @ weight.T + bias for rows in torch.split(hidden, num_rows)])
