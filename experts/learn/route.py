"""Where greedy decoding would hand over, judged on cached states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experts.learn.loss import expert_scores
from experts.learn.states import States
from experts.learn.targets import WORD
from experts.token import ExpertToken

Judgement = tuple[str | None, str]  # the expert a query is for; "right", "early", "wrong" or "none"


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
        wanted = [outcome for name, outcome in judgements if name is not None and expert in (None, name)]
        general = [outcome for name, outcome in judgements if name is None]
        shares = {outcome: _share(wanted, outcome) for outcome in ("right", "early", "wrong", "none")}
        return cls(
            shares["right"], shares["early"], shares["wrong"], shares["none"], 1 - _share(general, "none")
        )


def route(states: States, tokens: Sequence[ExpertToken]) -> Tensor:
    """int64 [N]: index of the token that beats the best word and all others, or -1; a tie is the word's."""
    if not tokens:
        return torch.full_like(states.expert, WORD)
    score, winner = expert_scores(states.hidden, tokens).max(dim=-1)
    return torch.where(score > states.max_logit, winner, WORD)


def score_routes(states: States, tokens: Sequence[ExpertToken]) -> RouteScores:
    """Judges every query by the first hand-over in it."""
    return RouteScores.of(judge(states, tokens))


def judge(states: States, tokens: Sequence[ExpertToken]) -> list[Judgement]:
    """For every query its expert, if any, and what became of it."""
    column = {token.name: index for index, token in enumerate(tokens)}
    routed = route(states, tokens)
    judgements = []
    for rows in _rows_by_query(states):
        target = int(states.expert[rows[-1]])
        expert = None if target == WORD else states.expert_names[target]
        judgements.append((expert, _outcome(routed[rows], column.get(expert or "", len(tokens)))))
    return judgements


def _rows_by_query(states: States) -> Sequence[Tensor]:
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1]
    return torch.split(torch.arange(len(states)), sizes.tolist())


def _outcome(routed: Tensor, expert: int) -> str:
    triggered = (routed != WORD).nonzero()[:, 0].tolist()
    if not triggered:
        return "none"
    first = triggered[0]
    if int(routed[first]) != expert:
        return "wrong"
    return "right" if first == len(routed) - 1 else "early"


def _share(outcomes: Sequence[str], outcome: str) -> float:
    return outcomes.count(outcome) / len(outcomes) if outcomes else float("nan")
