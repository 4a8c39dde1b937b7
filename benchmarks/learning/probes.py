"""Tokens against other classifiers on the same states, learned from many queries and from few.

On two metas: the demo's, whose states tell its subjects apart all too well, and one that was trained too
briefly for that.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.learning.demo import Demo
from benchmarks.learning.metas import wide_meta
from benchmarks.learning.questions import draw_queries
from benchmarks.learning.report import wanted
from benchmarks.learning.setting import Setting
from experts.evaluate.baselines import judge_baselines
from experts.evaluate.intervals import Estimate, difference, estimate
from experts.learn.fit import fit_tokens
from experts.learn.queries import Query
from experts.learn.route import Judgement, RouteScores, judge
from experts.learn.states import States, compute_states

NUMS_FEW = (10, 3)  # queries per expert, and three times as many of general chat
NUM_DRAWS = 3  # of few
TOKENS = "tokens"
_TIE = 1e-9


@dataclass(frozen=True)
class Contest:
    """One method: shares of held-out queries, means of all draws; intervals are 95 % bootstrap ones.

    `accuracy`: experts' queries routed right. `decisions`: those and general chat, which nobody should take
    over. `tokens_ahead`: decisions of the tokens less those of the method, in points, paired by query.
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
class Standing:
    """Who decides right most often, and by how many points the tokens are behind the probe."""

    meta: str
    trained_on: str
    winner: str
    accuracy_behind_probe: float
    decisions_behind_probe: float


@dataclass(frozen=True)
class Probes:
    most_points_behind_probe: float = wanted("<= 1, of held-out routing accuracy")
    most_decisions_behind_probe: float = wanted("<= 1, false triggers counted, too")
    standings: tuple[Standing, ...] = ()
    contests: tuple[Contest, ...] = ()


@dataclass(frozen=True)
class _Ground:
    """A meta's states of queries to learn from and of others to be judged by."""

    meta: str
    queries: list[Query]
    train: States
    held_out: States


def probes(setting: Setting) -> Probes:
    rounds = [contests for ground in (_demo(setting), _wide(setting)) for contests in _rounds(ground)]
    standings = tuple(_standing(contests) for contests in rounds)
    return Probes(
        most_points_behind_probe=max(standing.accuracy_behind_probe for standing in standings),
        most_decisions_behind_probe=max(standing.decisions_behind_probe for standing in standings),
        standings=standings,
        contests=tuple(contest for contests in rounds for contest in contests),
    )


def _demo(setting: Setting) -> _Ground:
    demo = Demo.of(setting)
    return _Ground("demo", demo.train, demo.states(demo.train), demo.states(demo.held_out))


def _wide(setting: Setting) -> _Ground:
    meta = wide_meta(setting)
    queries = draw_queries("recipe", 300, 700)
    held_out = draw_queries("recipe", 64, 300, held_out=True)
    train, judged = (compute_states(meta.model, meta.renderer, some) for some in (queries, held_out))
    return _Ground("wide", queries, train, judged)


def _rounds(ground: _Ground) -> Iterator[tuple[Contest, ...]]:
    yield _contests(ground.meta, "all", _judged([ground.train], ground.held_out))
    for num in NUMS_FEW:
        draws = [ground.train.of_queries(_few(ground.queries, num, seed)) for seed in range(NUM_DRAWS)]
        yield _contests(ground.meta, f"{num} per expert", _judged(draws, ground.held_out))


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


def _contests(meta: str, trained_on: str, judged: Judged) -> tuple[Contest, ...]:
    tokens = _decisions(judged[TOKENS])
    return tuple(_contest(meta, trained_on, name, draws, tokens) for name, draws in judged.items())


def _contest(
    meta: str, trained_on: str, name: str, draws: Sequence[Sequence[Judgement]], tokens: Sequence[float]
) -> Contest:
    decisions = _decisions(draws)
    pairs = zip(decisions, draws[0], strict=True)
    accuracy = estimate([value for value, judgement in pairs if judgement.expert is not None])
    ahead = difference(tokens, decisions)
    triggers = [RouteScores.of(draw).false_trigger_rate for draw in draws]
    return Contest(
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
    """For each query the share of draws in which what became of it is what should have."""
    by_query = zip(*draws, strict=True)
    return [sum(map(_is_right, judgements)) / len(draws) for judgements in by_query]


def _is_right(judgement: Judgement) -> bool:
    return judgement.outcome == ("right" if judgement.expert is not None else "none")


def _standing(contests: Sequence[Contest]) -> Standing:
    best = max(contest.decisions for contest in contests)
    by_method = {contest.method: contest for contest in contests}
    probe, tokens = by_method["probe"], by_method[TOKENS]
    return Standing(
        meta=tokens.meta,
        trained_on=tokens.trained_on,
        winner=" = ".join(contest.method for contest in contests if contest.decisions > best - _TIE),
        accuracy_behind_probe=100 * (probe.accuracy - tokens.accuracy),
        decisions_behind_probe=100 * (probe.decisions - tokens.decisions),
    )


def _interval(value: Estimate, factor: float) -> str:
    return f"{factor * value.low:.3f} to {factor * value.high:.3f}"
