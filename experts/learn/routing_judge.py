"""Judges, on cached states, where greedy decoding would hand over."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from experts.learn.hidden_states import States
from experts.learn.loss import expert_logits
from experts.learn.targets import WORD
from experts.token import ExpertToken

Outcome = Literal["right", "early", "wrong", "none"]


@dataclass(frozen=True)
class Judgement:
    """One query: the `expert` that should take over, and the one that it was `routed` to first; None is none.

    `early`: whether that was too early, cutting off what the meta should have written first.
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

    @property
    def is_right(self) -> bool:
        """Handed over to the right expert at the right place, or rightly not handed over."""
        return self.outcome == ("none" if self.expert is None else "right")


@dataclass(frozen=True)
class RouteScores:
    """Shares of queries, 0 to 1 (nan if there are no queries of the kind).

    Of the queries with an expert: `accuracy`, handed to it at the right place; `early`, handed to it, but
    too early; `wrong_expert`; and `no_handover`. Of the general queries: `false_trigger_rate`, handed to
    any expert, anywhere.
    """

    accuracy: float
    early: float
    wrong_expert: float
    no_handover: float
    false_trigger_rate: float

    @classmethod
    def of(cls, judgements: Sequence[Judgement], expert: str | None = None) -> RouteScores:
        """The scores of `judgements`; with `expert`, the first four are over that expert's queries alone."""
        with_expert = [
            judgement.outcome
            for judgement in judgements
            if judgement.expert is not None and expert in (None, judgement.expert)
        ]
        general = [judgement.outcome for judgement in judgements if judgement.expert is None]
        kinds = ("right", "early", "wrong", "none")
        right, early, wrong, none = (_share(with_expert, kind) for kind in kinds)
        return cls(right, early, wrong, none, 1 - _share(general, "none"))


@dataclass(frozen=True)
class MidAnswerCounts:
    """Of the `num_answers` own answers to experts' queries, how many an expert takes over in their middle."""

    num_answers: int
    num_taken_over: int


def route(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> Tensor:
    """int64 [N]: index of the best token if it beats the best word, or -1; a tie goes to the word."""
    if not tokens:
        return torch.full_like(states.expert, WORD)
    logit, winner = expert_logits(states, tokens).max(dim=-1)
    return torch.where(logit + call_bias > states.max_logit, winner, WORD)


def judge(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> list[Judgement]:
    """Judges every query, in order, by its first hand-over."""
    return judge_rows(states, route(states, tokens, call_bias), [token.name for token in tokens])


def judge_rows(states: States, routed: Tensor, names: Sequence[str]) -> list[Judgement]:
    """Judges decisions per row: `routed` int64 [N] holds indices into `names`, or -1 for a word.

    The rows of an own answer decide nothing: they are after the hand-over.
    """
    return [_judgement(row, experts, names, states) for row, experts in _by_query(states, routed)]


def count_mid_answer(states: States, routed: Tensor) -> MidAnswerCounts:
    """Counts on the rows of own answers; `routed` as for `judge_rows`."""
    taken_over = mid_answer_takeovers(states, routed)
    return MidAnswerCounts(len(taken_over), sum(taken_over))


def mid_answer_takeovers(states: States, routed: Tensor) -> list[bool]:
    """For each own answer, whether an expert takes over in its middle; `routed` as for `judge_rows`."""
    rows = [row[_handover(experts) + 1 :] for row, experts in _by_query(states, routed)]
    return [any(token != WORD for token in row) for row in rows if row]


def score_routes(states: States, tokens: Sequence[ExpertToken], call_bias: float = 0.0) -> RouteScores:
    return RouteScores.of(judge(states, tokens, call_bias))


def confusion(judgements: Sequence[Judgement], names: Sequence[str]) -> list[list[int]]:
    """Counts of queries: a row per expert that should take over, a column per expert that did.

    Both in the order of `names`, and then "no expert".
    """
    position = {name: index for index, name in enumerate([*names, None])}
    counts = [[0] * len(position) for _ in position]
    for judgement in judgements:
        counts[position[judgement.expert]][position[judgement.routed]] += 1
    return counts


def _by_query(states: States, routed: Tensor) -> Iterator[tuple[list[int], list[int]]]:
    """For every query, the decisions of its rows and the experts that are right there."""
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1].tolist()
    parts = zip(torch.split(routed, sizes), torch.split(states.expert, sizes), strict=True)
    for row, experts in parts:
        yield row.tolist(), experts.tolist()


def _handover(experts: Sequence[int]) -> int:
    """The first row that an expert should take over; the last one if none should."""
    return next((row for row, expert in enumerate(experts) if expert != WORD), len(experts) - 1)


def _judgement(
    routed: Sequence[int], experts: Sequence[int], names: Sequence[str], states: States
) -> Judgement:
    last = _handover(experts)
    expert = None if experts[last] == WORD else states.expert_names[experts[last]]
    first = next((row for row, token in enumerate(routed[: last + 1]) if token != WORD), None)
    if first is None:
        return Judgement(expert, None)
    return Judgement(expert, names[routed[first]], early=first < last)


def _share(outcomes: Sequence[str], outcome: str) -> float:
    return outcomes.count(outcome) / len(outcomes) if outcomes else float("nan")
