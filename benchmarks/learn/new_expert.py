"""The effect of a new expert on existing ones: each of the toy world's six is added to the other five."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from benchmarks.learn.toy_data import EXPERTS, ToyData
from experts.learn.fit import fit_tokens
from experts.learn.hidden_states import States
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement, RouteScores, judge
from experts.token import ExpertToken


@dataclass(frozen=True)
class Addition:
    """Held-out scores. `incumbents_*`: the routing accuracy of the five existing experts on their queries."""

    expert: str
    incumbents_identical: bool
    incumbents_before: float
    incumbents_after: float
    points_lost: float
    new_expert_accuracy: float
    false_triggers_before: float
    false_triggers_after: float


@dataclass(frozen=True)
class NewExpert:
    incumbents_identical: bool = target("True, bit for bit")
    most_points_lost: float = target("<= 0.5, of the existing experts")
    least_new_expert_accuracy: float = target(">= 0.95")
    additions: tuple[Addition, ...] = ()


def new_expert(setting: Setting) -> NewExpert:
    toy = ToyData.of(setting)
    train, held_out = toy.states(toy.train), toy.states(toy.held_out)
    additions = tuple(_add_expert(toy, name, train, held_out) for name in EXPERTS)
    return NewExpert(
        incumbents_identical=all(addition.incumbents_identical for addition in additions),
        most_points_lost=max(addition.points_lost for addition in additions),
        least_new_expert_accuracy=min(addition.new_expert_accuracy for addition in additions),
        additions=additions,
    )


def _add_expert(toy: ToyData, name: str, train: States, held_out: States) -> Addition:
    """The five are learned without any query of the new expert."""
    known = [query for query in toy.train if query.expert != name]
    incumbents = fit_tokens(toy.states(known)).tokens
    files = _files(incumbents)  # before the fit, which must not change them
    added = fit_tokens(train, incumbents=incumbents).tokens
    before = judge(held_out, incumbents)
    after = judge(held_out, [*incumbents, *added])
    scores_before, scores_after = (
        _scores_without(judgements, toy.held_out, name) for judgements in (before, after)
    )
    return Addition(
        expert=name,
        incumbents_identical=files == _files(incumbents),
        incumbents_before=scores_before.accuracy,
        incumbents_after=scores_after.accuracy,
        points_lost=100 * (scores_before.accuracy - scores_after.accuracy),
        new_expert_accuracy=RouteScores.of(after, name).accuracy,
        false_triggers_before=scores_before.false_trigger_rate,
        false_triggers_after=scores_after.false_trigger_rate,
    )


def _files(tokens: Sequence[ExpertToken]) -> list[str]:
    """The tokens as files, which contain every bit of vector and bias."""
    return [token.to_inline() for token in tokens]


def _scores_without(judgements: Sequence[Judgement], queries: Sequence[Query], name: str) -> RouteScores:
    pairs = zip(judgements, queries, strict=True)
    return RouteScores.of([judgement for judgement, query in pairs if query.expert != name])
