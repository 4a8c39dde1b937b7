"""Coordinates in which the fit is well conditioned, so that L-BFGS needs far fewer steps."""

from __future__ import annotations

import torch
from torch import Tensor

from experts.learn.hidden_states import States
from experts.learn.targets import WORD

_WORD_WEIGHT = 0.3  # most words are far from a hand-over, where the loss is flat
_RIDGE = 0.1  # for directions without data, for example if there are fewer positions than dimensions
_ROWS_PER_DIMENSION = 2


def whitening(states: States, scale: float) -> Tensor:
    """float64 [d + 1, d + 1], lower triangular: y @ W is a step, for coordinates y of a row and its bias.

    This is the inverse Cholesky factor of the second moment of [h / scale, 1]. The spread of a language
    model's hidden values differs by orders of magnitude between directions, and the curvature of the loss
    follows it. Any invertible matrix leads to the same minimum, so a sample of the rows is enough.
    """
    size = states.hidden.shape[1] + 1
    rows = slice(None, None, max(1, len(states) // (_ROWS_PER_DIMENSION * size)))
    hidden = states.hidden[rows].double() / scale
    inputs = torch.cat([hidden, torch.ones(len(hidden), 1, dtype=torch.float64)], dim=1)
    weight = torch.where(states.expert[rows] != WORD, 1.0, _WORD_WEIGHT).double()
    identity = torch.eye(size, dtype=torch.float64)
    moment = (inputs * weight[:, None]).T @ inputs / len(inputs) + _RIDGE * identity
    inverse: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(moment), identity, upper=False)
    return inverse
