"""The loss of a set of expert rows over cached states: exact, in a few matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.learn.hidden_states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken

_MAX_CONVERTED_BYTES = 2**30  # larger hidden states are converted in parts, at every evaluation
_MAX_SCORES = 2**24  # at once: 128 MiB of float64
_CACHED_VALUES = 2**20  # hidden values read twice per step, the second time from the processor's cache


class TokenLoss:
    """Cross entropy over the head [W_V; W_E], with W_V and every row not in `names` frozen.

    Per position, with s = f(h·w + b) over the learned rows, where f is the states' transform, and Z = log_z
    with the frozen rows added to it: logaddexp(Z, logsumexp(s)) − s_e for target expert e, − z_t for target
    word t. It is convex if f does not cap. All positions have the same weight: one false hand-over spoils an
    answer, and extra weight on hand-overs would cause more.
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
        frozen_logits = expert_logits(states, frozen)
        log_z = torch.logaddexp(states.log_z.double(), frozen_logits.logsumexp(dim=-1))
        column = {name: index for index, name in enumerate(names)}
        frozen_column = {token.name: index for index, token in enumerate(frozen)}
        target = torch.full_like(states.expert, WORD)
        fixed_logit = states.target_logit.double()
        for index, name in enumerate(states.expert_names):
            rows = states.expert == index
            if name in column:
                target[rows] = column[name]
            else:
                fixed_logit[rows] = frozen_logits[rows, frozen_column[name]]
        fits = states.hidden.numel() * dtype.itemsize <= _MAX_CONVERTED_BYTES
        self._dtype = dtype
        self._transform = states.transform
        self._hidden = states.hidden.to(device, dtype) if fits else states.hidden.to(device)
        self._log_z = log_z.to(device, dtype)
        self._target = target.to(device)
        self._fixed_logit = fixed_logit.to(device, dtype)

    def __call__(self, weight: Tensor, bias: Tensor) -> tuple[float, Tensor, Tensor]:
        """Mean loss per position in nats, and its gradients by `weight` [E, d] and `bias` [E]."""
        weight_here, bias_here = (x.to(self._hidden.device, self._dtype) for x in (weight, bias))
        loss = 0.0
        by_weight, by_bias = torch.zeros_like(weight_here), torch.zeros_like(bias_here)
        num_rows = self._num_rows(*weight.shape)
        for start in range(0, len(self._hidden), num_rows):
            rows = slice(start, start + num_rows)
            hidden = self._hidden[rows].to(self._dtype)
            logits = self._transform(hidden @ weight_here.T + bias_here)
            slope = self._transform.slope(logits)
            part, by_logit = self._part(logits, rows)
            by_score = by_logit.mul_(slope)
            loss += part
            by_weight.addmm_(by_score.T, hidden)
            by_bias += by_score.sum(dim=0)
        size = len(self._hidden)
        return loss / size, by_weight.div_(size).to("cpu", torch.float64), by_bias.div_(size).cpu().double()

    def _num_rows(self, num_experts: int, dim: int) -> int:
        """Rows per part: as many as the cache holds, but enough for efficient matrix products."""
        return max(1, min(max(_CACHED_VALUES // dim, num_experts), _MAX_SCORES // (dim + num_experts)))

    def _part(self, experts: Tensor, rows: slice) -> tuple[float, Tensor]:
        """Summed loss of some positions, and its gradient by the `experts`' logits, which it overwrites."""
        total = torch.logaddexp(self._log_z[rows], experts.logsumexp(dim=-1))
        target = self._target[rows]
        handovers = (target != WORD).nonzero()[:, 0]
        logit = self._fixed_logit[rows].clone()
        logit[handovers] = experts[handovers, target[handovers]]
        by_logit = experts.sub_(total[:, None]).exp_()
        by_logit[handovers, target[handovers]] -= 1
        return float((total - logit).sum()), by_logit


def expert_logits(states: States, tokens: Sequence[ExpertToken]) -> Tensor:
    """float64 [N, E]: f(h·w + b) of every token, f being the transform of `states`; E may be 0."""
    return states.transform(expert_scores(states.hidden, tokens))


def expert_scores(hidden: Tensor, tokens: Sequence[ExpertToken]) -> Tensor:
    """float64 [N, E]: h·w + b of every token; E may be 0."""
    if not tokens:
        return hidden.new_empty((len(hidden), 0), dtype=torch.float64)
    weight = torch.stack([token.vector for token in tokens]).double()
    bias = torch.tensor([token.bias for token in tokens], dtype=torch.float64)
    num_rows = max(1, _MAX_SCORES // hidden.shape[1])
    return torch.cat([rows.double() @ weight.T + bias for rows in torch.split(hidden, num_rows)])
