"""Tokens against other classifiers on the same states, learned from many queries and from few.

There are two metas: the toy world's, whose states tell its subjects apart perfectly, and a briefly
trained one.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.learn.metas import wide_meta
from benchmarks.learn.questions import draw_queries
from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from benchmarks.learn.toy_data import ToyData
from experts.evaluate.baselines import judge_baselines
from experts.evaluate.intervals import Estimate, difference, estimate
from experts.learn.fit import fit_tokens
from experts.learn.hidden_states import States, compute_states
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement, RouteScores, judge

NUMS_FEW = (10, 3)  # queries per expert; there are three times as many general queries
NUM_DRAWS = 3  # of few
TOKENS = "tokens"
_TIE = 1e-9


@dataclass(frozen=True)
class MethodScores:
    """One method: shares of held-out queries, means of all draws, 95 % bootstrap intervals.

    `accuracy`: experts' queries that were routed right. `decisions`: the same with general queries, which no
    expert should answer. `tokens_ahead`: the `decisions` of the tokens minus those of the method, in
    percentage points, paired by query.
    """

    meta: str
    trained_on: str
    method: str
    accuracy: float
    accuracy_interval: str
    false_trigger_rate: float
    decisions: float
    tokens_ahead: float
    tokens_ahead_interval: str


@dataclass(frozen=True)
class Ranking:
    """The method with the most right decisions, and how many points the tokens are behind the probe."""

    meta: str
    trained_on: str
    winner: str
    accuracy_behind_probe: float
    decisions_behind_probe: float


@dataclass(frozen=True)
class Probes:
    most_points_behind_probe: float = target("<= 1, of held-out routing accuracy")
    most_decisions_behind_probe: float = target("<= 1, including general queries")
    rankings: tuple[Ranking, ...] = ()
    scores: tuple[MethodScores, ...] = ()


@dataclass(frozen=True)
class _StateSets:
    """One meta's states of queries to learn from and of held-out queries."""

    meta: str
    queries: list[Query]
    train: States
    held_out: States


def probes(setting: Setting) -> Probes:
    rounds = [scores for state_sets in (_toy(setting), _wide(setting)) for scores in _rounds(state_sets)]
    rankings = tuple(_ranking(scores) for scores in rounds)
    return Probes(
        most_points_behind_probe=max(ranking.accuracy_behind_probe for ranking in rankings),
        most_decisions_behind_probe=max(ranking.decisions_behind_probe for ranking in rankings),
        rankings=rankings,
        scores=tuple(score for scores in rounds for score in scores),
    )


def _toy(setting: Setting) -> _StateSets:
    toy = ToyData.of(setting)
    return _StateSets("toy", toy.train, toy.states(toy.train), toy.states(toy.held_out))


def _wide(setting: Setting) -> _StateSets:
    meta = wide_meta(setting)
    queries = draw_queries("recipe", 300, 700)
    held_out = draw_queries("recipe", 64, 300, held_out=True)
    train, judged = (compute_states(meta.model, meta.renderer, group) for group in (queries, held_out))
    return _StateSets("wide", queries, train, judged)


def _rounds(state_sets: _StateSets) -> Iterator[tuple[MethodScores, ...]]:
    yield _all_scores(state_sets.meta, "all", _judged([state_sets.train], state_sets.held_out))
    for num in NUMS_FEW:
        draws = [
            state_sets.train.of_queries(_few(state_sets.queries, num, seed)) for seed in range(NUM_DRAWS)
        ]
        yield _all_scores(state_sets.meta, f"{num} per expert", _judged(draws, state_sets.held_out))


Judged = dict[str, list[list[Judgement]]]  # by method, one list of judgements for each draw


def _few(queries: Sequence[Query], num: int, seed: int) -> list[int]:
    draw = random.Random(seed)
    by_expert: dict[str | None, list[int]] = defaultdict(list)
    for index, query in enumerate(queries):
        by_expert[query.expert].append(index)
    sizes = {name: num if name else 3 * num for name in by_expert}
    return sorted(i for name, members in by_expert.items() for i in draw.sample(members, sizes[name]))


def _judged(trains: Sequence[States], held_out: States) -> Judged:
    judged: Judged = defaultdict(list)
    for train in trains:
        judged[TOKENS].append(judge(held_out, fit_tokens(train).tokens))
        for name, judgements in judge_baselines(train, held_out).items():
            judged[name].append(judgements)
    return judged


def _all_scores(meta: str, trained_on: str, judged: Judged) -> tuple[MethodScores, ...]:
    tokens = _decisions(judged[TOKENS])
    return tuple(_scores(meta, trained_on, name, draws, tokens) for name, draws in judged.items())


def _scores(
    meta: str, trained_on: str, name: str, draws: Sequence[Sequence[Judgement]], tokens: Sequence[float]
) -> MethodScores:
    decisions = _decisions(draws)
    pairs = zip(decisions, draws[0], strict=True)
    accuracy = estimate([value for value, judgement in pairs if judgement.expert is not None])
    ahead = difference(tokens, decisions)
    triggers = [RouteScores.of(draw).false_trigger_rate for draw in draws]
    return MethodScores(
        meta=meta,
        trained_on=trained_on,
        method=name,
        accuracy=accuracy.mean,
        accuracy_interval=_interval(accuracy, 1),
        false_trigger_rate=sum(triggers) / len(triggers),
        decisions=estimate(decisions).mean,
        tokens_ahead=100 * ahead.mean,
        tokens_ahead_interval=_interval(ahead, 100),
    )


def _decisions(draws: Sequence[Sequence[Judgement]]) -> list[float]:
    """For each query, the share of draws in which it was decided right."""
    by_query = zip(*draws, strict=True)
    return [sum(map(_is_right, judgements)) / len(draws) for judgements in by_query]


def _is_right(judgement: Judgement) -> bool:
    return judgement.outcome == ("right" if judgement.expert is not None else "none")


def _ranking(scores: Sequence[MethodScores]) -> Ranking:
    best = max(score.decisions for score in scores)
    by_method = {score.method: score for score in scores}
    probe, tokens = by_method["probe"], by_method[TOKENS]
    return Ranking(
        meta=tokens.meta,
        trained_on=tokens.trained_on,
        winner=" = ".join(score.method for score in scores if score.decisions > best - _TIE),
        accuracy_behind_probe=100 * (probe.accuracy - tokens.accuracy),
        decisions_behind_probe=100 * (probe.decisions - tokens.decisions),
    )


def _interval(value: Estimate, factor: float) -> str:
    return f"{factor * value.low:.3f} to {factor * value.high:.3f}"
