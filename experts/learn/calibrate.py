"""Chooses biases for a given false-trigger rate, on queries that the tokens were not learned from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult, minimize  # type: ignore[import-untyped]
from torch import Tensor

from experts.errors import DataError
from experts.learn.hidden_states import States
from experts.learn.loss import TokenLoss, expert_logits, expert_scores
from experts.learn.routing_judge import RouteScores, judge_rows
from experts.learn.targets import WORD
from experts.token import ExpertToken

_MAX_CANDIDATES = 256
_MAX_VALUES = 2**24  # at once: 64 MiB of float32
# The largest seen was 2.6: with 2 layers over batches of 1 to 64 and two kinds of attention, in three
# dtypes; with the 30 layers of SmolLM2 135M over the batches, in bfloat16.
_NUM_ROUNDINGS = 4


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
    """Puts tokens that were learned apart on one scale, by their biases alone; the vectors stay as they are.

    First each token gets its own bias, by the loss that the vectors were learned with and a standard normal
    prior on the change of its logits. Then one call bias is chosen for all: of those under which at most
    `false_trigger_rate` of the general queries (without an expert) are handed over, the one with the most
    right hand-overs; among equals the smallest. Queries within `rounding` of a hand-over count as handed
    over, and the positions of own answers to experts' queries do not count. The `incumbents` compete but
    keep their own biases.
    `states` should be held out. Raises DataError if they have no expert's queries, or no general ones.
    """
    if not 0 <= false_trigger_rate < 1:
        raise DataError(f"false-trigger rate {false_trigger_rate:g} is not in [0, 1); give 0.01 for 1 %")
    if not bool((states.expert != WORD).any()):
        raise DataError("no held-out query is for an expert, so hand-overs cannot be counted; add queries")
    offsets = _own_biases(states, tokens, incumbents)
    moved = [replace(token, bias=token.bias + offset) for token, offset in zip(tokens, offsets, strict=True)]
    return Calibration(moved, _call_bias(states, [*moved, *incumbents], false_trigger_rate))


def rounding(states: States, tokens: Sequence[ExpertToken], best: Tensor) -> Tensor:
    """float64 [N]: how far the logit of the `best` token, int64 [N], may move against the largest word logit.

    An engine computes the same position in other batches and with another attention, so it rounds otherwise.
    If each value of h changes by about ε, which is `states.resolution`, h·w changes by ε ‖h ∘ w‖; and a word
    logit z is itself rounded to steps of about ε |z|. Both are changed in every layer, so this sum is counted
    several times; see _NUM_ROUNDINGS.
    """
    weight = torch.stack([token.vector for token in tokens])
    num_rows = max(1, _MAX_VALUES // weight.shape[1])
    parts = zip(torch.split(states.hidden, num_rows), torch.split(best, num_rows), strict=True)
    spread = torch.cat([(hidden * weight[winner]).norm(dim=-1) for hidden, winner in parts]).double()
    steps = states.max_logit.abs() + states.transform.scale * spread
    return _NUM_ROUNDINGS * states.resolution * steps


def _own_biases(
    states: States, tokens: Sequence[ExpertToken], incumbents: Sequence[ExpertToken]
) -> list[float]:
    # Scores take the place of hidden states, and rows of the identity that of vectors, which stay constant.
    all_tokens = [*tokens, *incumbents]
    identity = torch.eye(len(all_tokens))
    fixed = [
        replace(token, vector=row, bias=0.0)
        for token, row in zip(incumbents, identity[len(tokens) :], strict=True)
    ]
    scores = replace(states, hidden=expert_scores(states.hidden, all_tokens))
    loss = TokenLoss(scores, [token.name for token in tokens], fixed)
    rows = identity[: len(tokens)].double()
    scale = states.transform.scale

    def objective(offsets: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        value, _, by_bias = loss(rows, torch.from_numpy(offsets / scale))
        by_offset = by_bias.numpy() / scale + offsets / len(states)
        return value + float(offsets @ offsets) / (2 * len(states)), by_offset

    found: OptimizeResult = minimize(objective, np.zeros(len(tokens)), method="L-BFGS-B", jac=True)
    return [float(offset) / scale for offset in found.x]


def _call_bias(states: States, tokens: Sequence[ExpertToken], false_trigger_rate: float) -> float:
    logit, winner = expert_logits(states, tokens).max(dim=-1)
    margin = logit - states.max_logit
    limit = _largest_bias(states, margin + rounding(states, tokens, winner), false_trigger_rate)
    # No decision changes between two margins, so the middle is farthest from any change. If there are very
    # many, an even sample is fine enough.
    steps = sorted({bias for bias in (-margin).tolist() if bias <= limit})
    middles = [(low + high) / 2 for low, high in pairwise(steps)]
    picked = np.linspace(0, len(middles) - 1, min(len(middles), _MAX_CANDIDATES)).round().astype(int)
    candidates = {*(middles[index] for index in picked), limit, min(0.0, limit)}

    def num_right(bias: float) -> float:
        routed = torch.where(margin + bias > 0, winner, WORD)
        return RouteScores.of(judge_rows(states, routed, [token.name for token in tokens])).accuracy

    best: float = max(candidates, key=lambda bias: (num_right(bias), -abs(bias)))
    return best


def _largest_bias(states: States, margin: Tensor, false_trigger_rate: float) -> float:
    """The largest bias under which at most this share of the general queries is handed over."""
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1].tolist()
    parts = zip(torch.split(margin, sizes), torch.split(states.expert, sizes), strict=True)
    worst = sorted((float(part.max()) for part, expert in parts if int(expert.max()) == WORD), reverse=True)
    if not worst:
        raise DataError(
            "no held-out query is without an expert, so false hand-overs cannot be counted; "
            'add general chat with "expert": null'
        )
    return -worst[math.floor(false_trigger_rate * len(worst))]
