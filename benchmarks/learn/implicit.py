"""Learning without labels: a query is assigned to the model to which its reference answer is likeliest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.learn.report import target
from benchmarks.learn.setting import Setting
from benchmarks.learn.toy_data import EXPERTS, ToyData
from experts.learn.assign import assign_queries
from experts.learn.fit import fit_tokens
from experts.learn.hidden_states import States
from experts.learn.queries import Query
from experts.learn.routing_judge import RouteScores, score_routes


@dataclass(frozen=True)
class LabelCounts:
    """Queries with a true label, queries that were assigned to it, and those that were assigned rightly."""

    expert: str
    num_true: int
    num_assigned: int
    num_agreed: int


@dataclass(frozen=True)
class Implicit:
    num_queries: int
    assign_s: float
    accuracy_from_labels: float
    accuracy_from_likelihoods: float
    false_trigger_rate_from_labels: float
    false_trigger_rate_from_likelihoods: float
    agreement: float = target(">= 0.95")
    points_lost: float = target("<= 1, of held-out routing accuracy")
    by_expert: tuple[LabelCounts, ...] = ()


def implicit(setting: Setting) -> Implicit:
    """All labels of the toy world are removed. The words before a hand-over stay in the rows."""
    toy = ToyData.of(setting)
    unlabelled = [replace(query, expert=None, labelled=False) for query in toy.train]
    began_s = time.perf_counter()
    assigned = assign_queries(toy.checkpoints(), unlabelled).queries
    assign_s = time.perf_counter() - began_s

    # Judged by the true labels in both cases.
    held_out = toy.states(toy.held_out)
    labels, likelihoods = (_scores(toy, queries, held_out) for queries in (toy.train, assigned))
    agreed = [true.expert == found.expert for true, found in zip(toy.train, assigned, strict=True)]
    return Implicit(
        num_queries=len(assigned),
        assign_s=assign_s,
        accuracy_from_labels=labels.accuracy,
        accuracy_from_likelihoods=likelihoods.accuracy,
        false_trigger_rate_from_labels=labels.false_trigger_rate,
        false_trigger_rate_from_likelihoods=likelihoods.false_trigger_rate,
        agreement=sum(agreed) / len(agreed),
        points_lost=100 * (labels.accuracy - likelihoods.accuracy),
        by_expert=tuple(_count_labels(name, toy.train, assigned) for name in (*EXPERTS, None)),
    )


def _scores(toy: ToyData, queries: Sequence[Query], held_out: States) -> RouteScores:
    return score_routes(held_out, fit_tokens(toy.states(queries)).tokens)


def _count_labels(name: str | None, true: Sequence[Query], assigned: Sequence[Query]) -> LabelCounts:
    return LabelCounts(
        expert=name or "(no expert)",
        num_true=sum(query.expert == name for query in true),
        num_assigned=sum(query.expert == name for query in assigned),
        num_agreed=sum(a.expert == name == b.expert for a, b in zip(true, assigned, strict=True)),
    )
