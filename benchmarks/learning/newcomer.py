"""Does a new expert disturb the others? Each of the demo's six is added to the other five in turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learning.demo import EXPERTS, Demo
from benchmarks.learning.report import wanted
from benchmarks.learning.setting import Setting
from experts.learn.fit import fit_tokens
from experts.learn.queries import Query
from experts.learn.route import Judgement, RouteScores, judge
from experts.learn.states import States
from experts.token import ExpertToken


@dataclass(frozen=True)
class Arrival:
    """Held-out scores. `incumbents_*`: the five's routing accuracy, on the queries that are theirs."""

    newcomer: str
    incumbents_identical: bool
    incumbents_before: float
    incumbents_after: float
    points_lost: float
    newcomer_accuracy: float
    false_triggers_before: float
    false_triggers_after: float


@dataclass(frozen=True)
class Newcomer:
    incumbents_identical: bool = wanted("True, bit for bit")
    most_points_lost: float = wanted("<= 0.5, by the incumbents")
    least_newcomer_accuracy: float = wanted(">= 0.95")
    arrivals: tuple[Arrival, ...] = ()


def newcomer(setting: Setting) -> Newcomer:
    demo = Demo.of(setting)
    train, held_out = demo.states(demo.train), demo.states(demo.held_out)
    arrivals = tuple(_arrival(demo, name, train, held_out) for name in EXPERTS)
    return Newcomer(
        incumbents_identical=all(one.incumbents_identical for one in arrivals),
        most_points_lost=max(one.points_lost for one in arrivals),
        least_newcomer_accuracy=min(one.newcomer_accuracy for one in arrivals),
        arrivals=arrivals,
    )


def _arrival(demo: Demo, name: str, train: States, held_out: States) -> Arrival:
    """The five are learned without a single query of the newcomer's, as if nobody knew of it yet."""
    known = [query for query in demo.train if query.expert != name]
    incumbents = fit_tokens(demo.states(known)).tokens
    files = _files(incumbents)  # taken before the fit that could touch them
    added = fit_tokens(train, incumbents=incumbents).tokens
    before = judge(held_out, incumbents)
    after = judge(held_out, [*incumbents, *added])
    was, now = (_scores_without(judgements, demo.held_out, name) for judgements in (before, after))
    return Arrival(
        newcomer=name,
        incumbents_identical=files == _files(incumbents),
        incumbents_before=was.accuracy,
        incumbents_after=now.accuracy,
        points_lost=100 * (was.accuracy - now.accuracy),
        newcomer_accuracy=RouteScores.of(after, name).accuracy,
        false_triggers_before=was.false_trigger_rate,
        false_triggers_after=now.false_trigger_rate,
    )


def _files(tokens: Sequence[ExpertToken]) -> list[str]:
    """What would be written to disk: every bit of vector and bias is in it."""
    return [token.to_inline() for token in tokens]


def _scores_without(judgements: Sequence[Judgement], queries: Sequence[Query], name: str) -> RouteScores:
    pairs = zip(judgements, queries, strict=True)
    return RouteScores.of([judgement for judgement, query in pairs if query.expert != name])
