"""Biases for a chosen false-trigger rate, from queries that the tokens were not learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]
from torch import Tensor

from experts.errors import DataError
from experts.learn.loss import TokenLoss, expert_scores
from experts.learn.route import RouteScores, judge_rows
from experts.learn.states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken

_MAX_CANDIDATES = 256


@dataclass(frozen=True)
class Calibration:
    """The tokens with their new biases, and the bias to add to all of them (`routing.call_bias`)."""

    tokens: list[ExpertToken]
    call_bias: float


def calibrate(
    states: States,
    tokens: Sequence[ExpertToken],
    false_trigger_rate: float,
    incumbents: Sequence[ExpertToken] = (),
) -> Calibration:
    """Tokens learned apart are not scaled to each other; this makes them so without touching their vectors.

    First each token's own bias, by the loss the vectors were learned with, under a standard normal prior on
    the change. Then one call bias: of those that hand over at most `false_trigger_rate` of the queries that
    are nobody's, the one with the most right hand-overs, and among equals the smallest. The `incumbents`
    compete, but keep their own biases.
    `states` should be held out. Raises DataError where they lack queries of experts, or nobody's.
    """
    if not 0 <= false_trigger_rate < 1:
        raise DataError(f"false-trigger rate {false_trigger_rate:g} is not in [0, 1); give 0.01 for 1 %")
    if not bool((states.expert != WORD).any()):
        raise DataError("no held-out query is an expert's, so hand-overs cannot be counted; add queries")
    offsets = _own_biases(states, tokens, incumbents)
    moved = [replace(token, bias=token.bias + offset) for token, offset in zip(tokens, offsets, strict=True)]
    return Calibration(moved, _call_bias(states, [*moved, *incumbents], false_trigger_rate))


def _own_biases(
    states: States, tokens: Sequence[ExpertToken], incumbents: Sequence[ExpertToken]
) -> list[float]:
    # With the scores in place of the hidden states every vector becomes a row of the identity, and stays it.
    everyone = [*tokens, *incumbents]
    identity = torch.eye(len(everyone))
    fixed = [
        replace(token, vector=row, bias=0.0)
        for token, row in zip(incumbents, identity[len(tokens) :], strict=True)
    ]
    scores = replace(states, hidden=expert_scores(states.hidden, everyone))
    loss = TokenLoss(scores, [token.name for token in tokens], fixed)
    rows = identity[: len(tokens)].double()

    def objective(offsets: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, _, gradient = loss(rows, torch.from_numpy(offsets))
        return value + float(offsets @ offsets) / (2 * len(states)), gradient.numpy() + offsets / len(states)

    found: OptimizeResult = minimize(objective, np.zeros(len(tokens)), method="L-BFGS-B", jac=True)
    return [float(offset) for offset in found.x]


def _call_bias(states: States, tokens: Sequence[ExpertToken], false_trigger_rate: float) -> float:
    score, winner = expert_scores(states.hidden, tokens).max(dim=-1)
    margin = score - states.max_logit
    limit = _largest_bias(states, margin, false_trigger_rate)
    # Nothing changes between two margins; of very many, an even sample is fine enough.
    steps = sorted({bias for bias in (-margin).tolist() if bias <= limit})
    picked = np.linspace(0, len(steps) - 1, min(len(steps), _MAX_CANDIDATES)).round().astype(int)
    candidates = {*(steps[index] for index in picked), limit, min(0.0, limit)}

    def num_right(bias: float) -> float:
        routed = torch.where(margin + bias > 0, winner, WORD)
        return RouteScores.of(judge_rows(states, routed, [token.name for token in tokens])).accuracy

    best: float = max(candidates, key=lambda bias: (num_right(bias), -abs(bias)))
    return best


def _largest_bias(states: States, margin: Tensor, false_trigger_rate: float) -> float:
    """The largest bias under which no more than the given share of nobody's queries is handed over."""
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1].tolist()
    parts = zip(torch.split(margin, sizes), torch.split(states.expert, sizes), strict=True)
    worst = sorted((float(part.max()) for part, expert in parts if int(expert[-1]) == WORD), reverse=True)
    if not worst:
        raise DataError(
            "no held-out query is nobody's, so false hand-overs cannot be counted; "
            'add general chat with "expert": null'
        )
    return -worst[math.floor(false_trigger_rate * len(worst))]
