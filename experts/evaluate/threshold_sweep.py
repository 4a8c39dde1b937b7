"""Judges expert tokens on states, at one call bias and over a range of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from experts.evaluate.state_rows import only_first_rows
from experts.learn.hidden_states import States
from experts.learn.loss import expert_logits
from experts.learn.routing_judge import (
    Judgement,
    MidAnswerCounts,
    RouteScores,
    count_mid_answer,
    judge_rows,
)
from experts.learn.targets import WORD
from experts.token import ExpertToken

_NUM_POINTS = 81


@dataclass(frozen=True)
class TriggerPoint:
    """Hand-overs at one call bias, as two shares of queries; nan if there are none of the kind."""

    call_bias: float
    false_trigger_rate: float
    accuracy: float


class TokenRouter:
    """Decides every row as experts/head.py does: the best expert, if it beats the best word."""

    def __init__(self, states: States, tokens: Sequence[ExpertToken], *, only_at_start: bool = False) -> None:
        """`tokens`: at least one. Raises TokenMismatch if one is another meta's."""
        for token in tokens:
            token.require_meta(states.meta_name, states.meta_fingerprint, states.hidden.shape[1])
        self._states, self._only_at_start = states, only_at_start
        self._names = [token.name for token in tokens]
        # The call bias raises all experts alike: it changes whether one takes over, not which one.
        logit, self._winner = expert_logits(states, tokens).max(dim=-1)
        self._margin = logit - states.max_logit

    def judge(self, call_bias: float) -> list[Judgement]:
        return judge_rows(self._states, self._labels(call_bias), self._names)

    def count_mid_answer(self, call_bias: float) -> MidAnswerCounts:
        return count_mid_answer(self._states, self._labels(call_bias))

    def sweep(self, call_bias: float) -> tuple[TriggerPoint, ...]:
        """From hardly any hand-over to nearly only hand-overs; `call_bias` and 0 are among the points."""
        # A row hands over once the bias reaches -margin, so nothing changes outside the range of the margins.
        low, high = np.quantile(-self._margin.numpy(), [0.0, 0.9])
        biases = {*np.linspace(low, high, _NUM_POINTS).tolist(), call_bias, 0.0}
        return tuple(self._point(bias) for bias in sorted(biases))

    def _point(self, call_bias: float) -> TriggerPoint:
        scores = RouteScores.of(self.judge(call_bias))
        return TriggerPoint(call_bias, scores.false_trigger_rate, scores.accuracy)

    def _labels(self, call_bias: float) -> Tensor:
        labels = torch.where(self._margin + call_bias > 0, self._winner, WORD)
        return only_first_rows(self._states, labels) if self._only_at_start else labels
