"""Learning expert tokens from cached states: a convex problem, solved to its minimum."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]
from torch import Tensor

from experts.errors import DataError
from experts.learn.loss import TokenLoss
from experts.learn.states import Progress, States
from experts.learn.targets import WORD
from experts.token import ExpertToken

DEFAULT_L2 = 1e-6
# The loss cannot fall below the noise of its own arithmetic.
_TOLERANCES = {
    torch.float64: {"ftol": 1e-13, "gtol": 1e-7},
    torch.float32: {"ftol": 1e-8, "gtol": 1e-5},
}


@dataclass(frozen=True, eq=False)
class FitResult:
    """`tokens`: the new ones, by name. `losses`: one per L-BFGS iteration, penalty included."""

    tokens: list[ExpertToken]
    losses: list[float]
    converged: bool


def fit_tokens(
    states: States,
    *,
    l2: float = DEFAULT_L2,
    incumbents: Sequence[ExpertToken] = (),
    device: str = "cpu",
    max_iterations: int = 2000,
    progress: Progress = lambda done, total, what: None,
) -> FitResult:
    """Learns a token for every expert of `states` that is not among the `incumbents`, which stay as they are.

    Minimises TokenLoss + l2 · p · (s² Σ‖w − mean row of the head‖² + Σ b²), where s² is the mean square of
    a hidden value and p the share of hand-overs among the positions: so one `l2` means the same for every
    scale of hidden states and every length of answers. Computes in float64 on the CPU, in float32 elsewhere.
    Raises DataError where nothing is to be learned, TokenMismatch where an incumbent is another meta's.
    """
    names = _names_to_learn(states, incumbents)
    scale = float(states.hidden.double().square().mean().sqrt()) or 1.0
    dtype = torch.float64 if torch.device(device).type == "cpu" else torch.float32
    loss = TokenLoss(states, names, incumbents, device=device, dtype=dtype)
    objective = _Objective(loss, states, l2, scale)
    losses: list[float] = []

    def record(intermediate_result: OptimizeResult) -> None:
        losses.append(float(intermediate_result.fun))
        progress(len(losses), max_iterations, "fit")

    start = np.zeros(len(names) * (states.hidden.shape[1] + 1))
    options = {**_TOLERANCES[dtype], "maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20}
    found = minimize(objective, start, method="L-BFGS-B", jac=True, callback=record, options=options)
    weight, bias = objective.rows(found.x)
    tokens = [_token(states, *row) for row in zip(names, weight.float(), bias.tolist(), strict=True)]
    progress(len(losses), len(losses), "fit")
    return FitResult(tokens, losses, bool(found.success))


class _Objective:
    """Penalised loss and gradient, flat, for steps away from the mean row, scaled so that all count alike."""

    def __init__(self, loss: TokenLoss, states: States, l2: float, scale: float) -> None:
        self._loss = loss
        self._start = states.head_mean.double()
        self._strength = l2 * float((states.expert != WORD).double().mean())
        self._scale = scale

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, by_weight, by_bias = self._loss(*self.rows(flat))
        by_step = torch.cat([by_weight / self._scale, by_bias[:, None]], dim=1).flatten().numpy()
        return value + self._strength * float(flat @ flat), by_step + 2 * self._strength * flat

    def rows(self, flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Rows [E, d] and biases [E]."""
        steps = torch.from_numpy(flat).view(-1, len(self._start) + 1)
        return self._start + steps[:, :-1] / self._scale, steps[:, -1]


def _names_to_learn(states: States, incumbents: Sequence[ExpertToken]) -> list[str]:
    for token in incumbents:
        token.require_meta(states.meta_name, states.meta_fingerprint, states.hidden.shape[1])
    names = sorted(set(states.expert_names) - {token.name for token in incumbents})
    if not names:
        raise DataError(
            'no query names a new expert; give queries with an "expert" that is yet to be learned'
        )
    return names


def _token(states: States, name: str, vector: Tensor, bias: float) -> ExpertToken:
    return ExpertToken(
        name=name,
        vector=vector.clone(),
        bias=bias,
        meta_name=states.meta_name,
        meta_fingerprint=states.meta_fingerprint,
        dataset_digest=states.dataset_digest,
    )
