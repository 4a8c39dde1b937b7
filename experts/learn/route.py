"""Where greedy decoding would hand over, judged on cached states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from experts.learn.loss import expert_scores
from experts.learn.states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken

Outcome = Literal["right", "early", "wrong", "none"]


@dataclass(frozen=True)
class Judgement:
    """What became of one query: who should take over, who did first, and whether before the right place.

    None is nobody. An `early` hand-over cuts off what the meta should have written first.
    """

    expert: str | None
    routed: str | None
    early: bool = False

    @property
    def outcome(self) -> Outcome:
        if self.routed is None:
            return "none"
        if self.routed != self.expert:
            return "wrong"
        return "early" if self.early else "right"


@dataclass(frozen=True)
class RouteScores:
    """Shares of queries, 0 to 1 (nan where there are none of the kind).

    Of the queries with an expert: `accuracy`, handed to it at the right place; `early`, to it, but too
    soon; `wrong_expert`; and `no_handover`. Of those without: `false_trigger_rate`, to anyone, anywhere.
    """

    accuracy: float
    early: float
    wrong_expert: float
    no_handover: float
    false_trigger_rate: float

    @classmethod
    def of(cls, judgements: Sequence[Judgement], expert: str | None = None) -> RouteScores:
        """Sums up judgements; of the queries with an expert only those of `expert`, if one is given."""
        wanted = [
            one.outcome for one in judgements if one.expert is not None and expert in (None, one.expert)
        ]
        general = [one.outcome for one in judgements if one.expert is None]
        right, early, wrong, none = (_share(wanted, kind) for kind in ("right", "early", "wrong", "none"))
        return cls(right, early, wrong, none, 1 - _share(general, "none"))


def route(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> Tensor:
    """int64 [N]: index of the token that beats the best word and all others, or -1; a tie is the word's."""
    if not tokens:
        return torch.full_like(states.expert, WORD)
    score, winner = expert_scores(states.hidden, tokens).max(dim=-1)
    return torch.where(score + call_bias > states.max_logit, winner, WORD)


def judge(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> list[Judgement]:
    """Judges every query, in order, by the first hand-over in it."""
    return judge_rows(states, route(states, tokens, call_bias), [token.name for token in tokens])


def judge_rows(states: States, routed: Tensor, names: Sequence[str]) -> list[Judgement]:
    """Judges decisions made per row: `routed` int64 [N], an index into `names`, or -1 for a word."""
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1].tolist()
    parts = zip(torch.split(routed, sizes), torch.split(states.expert, sizes), strict=True)
    return [_judgement(row.tolist(), int(expert[-1]), names, states) for row, expert in parts]


def score_routes(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> RouteScores:
    return RouteScores.of(judge(states, tokens, call_bias))


def confusion(judgements: Sequence[Judgement], names: Sequence[str]) -> list[list[int]]:
    """Counts: a row for who should take over, a column for who did; `names` in order, then nobody."""
    place = {name: index for index, name in enumerate([*names, None])}
    counts = [[0] * len(place) for _ in place]
    for one in judgements:
        counts[place[one.expert]][place[one.routed]] += 1
    return counts


def _judgement(routed: Sequence[int], target: int, names: Sequence[str], states: States) -> Judgement:
    expert = None if target == WORD else states.expert_names[target]
    first = next((at for at, token in enumerate(routed) if token != WORD), None)
    if first is None:
        return Judgement(expert, None)
    return Judgement(expert, names[routed[first]], early=first < len(routed) - 1)


def _share(outcomes: Sequence[str], outcome: str) -> float:
    return outcomes.count(outcome) / len(outcomes) if outcomes else float("nan")
