"""Fits expert tokens to cached states: a convex problem if no logits are capped, solved to its minimum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor

from experts.errors import DataError
from experts.learn.hidden_states import Progress, States
from experts.learn.loss import TokenLoss
from experts.learn.whiten import whitening
from experts.token import ExpertToken

# Weak enough that an expert's row can outweigh all words: at 0.03 a meta that is very sure of its words
# already keeps queries to itself. Cross-validation with 3 to 300 queries per expert is flat up to 0.1.
DEFAULT_L2 = 0.01
# The fit ends with the first step that gains less than this, in nats per position.
_OPTIONS = {"ftol": 1e-7, "gtol": 1e-7, "maxcor": 10}
# Above this, twice the speed is worth more than digits far below the tolerance, and whitening no longer
# helps: so many experts have a direction each.
_MANY_PARAMETERS = 2**20


@dataclass(frozen=True, eq=False)
class FitResult:
    """`tokens`: the new ones, sorted by name. `losses`: one per L-BFGS iteration, with the penalty."""

    tokens: list[ExpertToken]
    losses: list[float]
    converged: bool


def fit_tokens(
    states: States,
    *,
    l2: float = DEFAULT_L2,
    incumbents: Sequence[ExpertToken] = (),
    start: Sequence[ExpertToken] = (),
    device: str = "cpu",
    max_iterations: int = 2000,
    progress: Progress = lambda done, total, what: None,
) -> FitResult:
    """Learns a token for every expert of `states` that is not among the `incumbents`, which stay as they are.

    Minimises TokenLoss + l2 / N · c² (s² Σ‖w − mean row of the head‖² + Σ b²) over N positions, where s² is
    the mean square of a hidden value and c the scale of the meta's logits: a Gaussian prior that does not
    depend on the scale of hidden states or scores, and weighs less the more data there is. Computes in
    float64 on the CPU; in float32 on other devices, and for more than a million values. `start`: tokens to
    begin from, which saves steps. Raises DataError (nothing to learn), TokenMismatch (another meta's token).
    """
    names = _names_to_learn(states, incumbents, start)
    scale = float(states.hidden.double().square().mean().sqrt()) or 1.0
    many = len(names) * (states.hidden.shape[1] + 1) > _MANY_PARAMETERS
    dtype = torch.float64 if device == "cpu" and not many else torch.float32
    loss = TokenLoss(states, names, incumbents, device=device, dtype=dtype)
    objective = _Objective(loss, states, l2, scale, None if many else whitening(states, scale))
    losses: list[float] = []

    def record(intermediate_result: OptimizeResult) -> None:
        losses.append(float(intermediate_result.fun))
        progress(len(losses), 0, "fit")  # how many steps it takes is not known

    found = _minimum(objective, objective.flat(names, start), record, max_iterations)
    weight, bias = objective.rows(found.x)
    tokens = [_token(states, *row) for row in zip(names, weight.float(), bias.tolist(), strict=True)]
    progress(len(losses), len(losses), "fit")
    return FitResult(tokens, losses, bool(found.success))


def _minimum(
    objective: _Objective, start: NDArray[np.float64], record: Callable[..., None], max_iterations: int
) -> OptimizeResult:
    options = {**_OPTIONS, "maxiter": max_iterations, "maxfun": 2 * max_iterations}
    # SciPy's threads would compete with torch's for the same cores, and cost more than the arithmetic.
    with threadpool_limits(1, user_api="blas"):
        return minimize(objective, start, method="L-BFGS-B", jac=True, callback=record, options=options)


class _Objective:
    """Penalised loss and its gradient, as functions of a flat vector.

    The vector holds, per expert, its step away from the mean row and its bias, in whitened coordinates.
    """

    def __init__(
        self, loss: TokenLoss, states: States, l2: float, scale: float, whitening: Tensor | None
    ) -> None:
        self._loss = loss
        self._mean = states.head_mean.double()
        self._strength = l2 / len(states)
        # In these units a step changes logits, not scores, and hidden values have a mean square of 1.
        self._scales = torch.full((len(self._mean) + 1,), scale * states.transform.scale, dtype=torch.float64)
        self._scales[-1] = states.transform.scale
        self._whitening = whitening

    def __call__(self, flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        steps = self._steps(flat)
        value, by_weight, by_bias = self._loss(*self._rows(steps))
        by_row = torch.cat([by_weight, by_bias[:, None]], dim=1)
        by_step = by_row / self._scales + 2 * self._strength * steps
        penalty = self._strength * float(steps.square().sum())
        by_flat = by_step if self._whitening is None else by_step @ self._whitening.T
        return value + penalty, by_flat.flatten().numpy()

    def rows(self, flat: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """Rows [E, d] and biases [E]."""
        return self._rows(self._steps(flat))

    def flat(self, names: Sequence[str], tokens: Sequence[ExpertToken]) -> NDArray[np.float64]:
        """The inverse of `rows`; a name without a token gets the mean row of the head."""
        steps = torch.zeros(len(names), len(self._mean) + 1, dtype=torch.float64)
        for token in tokens:
            if token.name in names:
                step = token.vector.double() - self._mean
                step = torch.cat([step, step.new_tensor([token.bias])])
                steps[names.index(token.name)] = step * self._scales
        if self._whitening is not None:
            steps = torch.linalg.solve_triangular(self._whitening, steps, upper=False, left=False)
        return steps.flatten().numpy()

    def _steps(self, flat: NDArray[np.float64]) -> Tensor:
        steps = torch.from_numpy(flat).view(-1, len(self._mean) + 1)
        return steps if self._whitening is None else steps @ self._whitening

    def _rows(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        rows = steps / self._scales
        return self._mean + rows[:, :-1], rows[:, -1]


def _names_to_learn(
    states: States, incumbents: Sequence[ExpertToken], start: Sequence[ExpertToken]
) -> list[str]:
    for token in (*incumbents, *start):
        token.require_meta(states.meta_name, states.meta_fingerprint, states.hidden.shape[1])
    names = sorted(set(states.expert_names) - {token.name for token in incumbents})
    if not names:
        raise DataError('no query names a new expert; give queries with an "expert" that has no token yet')
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
