"""Can labels be done without? Queries go to the model that finds their reference answer likeliest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.learning.demo import EXPERTS, Demo
from benchmarks.learning.report import wanted
from benchmarks.learning.setting import Setting
from experts.learn.assign import assign_queries
from experts.learn.fit import fit_tokens
from experts.learn.queries import Query
from experts.learn.route import RouteScores, score_routes
from experts.learn.states import States


@dataclass(frozen=True)
class Given:
    """One true label: how many queries bear it, how many were given it, and how many of those rightly."""

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
    agreement: float = wanted(">= 0.95")
    points_lost: float = wanted("<= 1, of held-out routing accuracy")
    by_expert: tuple[Given, ...] = ()


def implicit(setting: Setting) -> Implicit:
    """Every label of the demo is taken away; what the meta says before a hand-over stays in the rows."""
    demo = Demo.of(setting)
    unlabelled = [replace(query, expert=None, labelled=False) for query in demo.train]
    began_s = time.perf_counter()
    assigned = assign_queries(demo.checkpoints(), unlabelled).queries
    assign_s = time.perf_counter() - began_s

    # Judged by the true labels, whatever the tokens were learned from.
    held_out = demo.states(demo.held_out)
    labels, likelihoods = (_scores(demo, queries, held_out) for queries in (demo.train, assigned))
    agreed = [true.expert == found.expert for true, found in zip(demo.train, assigned, strict=True)]
    return Implicit(
        num_queries=len(assigned),
        assign_s=assign_s,
        accuracy_from_labels=labels.accuracy,
        accuracy_from_likelihoods=likelihoods.accuracy,
        false_trigger_rate_from_labels=labels.false_trigger_rate,
        false_trigger_rate_from_likelihoods=likelihoods.false_trigger_rate,
        agreement=sum(agreed) / len(agreed),
        points_lost=100 * (labels.accuracy - likelihoods.accuracy),
        by_expert=tuple(_given(name, demo.train, assigned) for name in (*EXPERTS, None)),
    )


def _scores(demo: Demo, queries: Sequence[Query], held_out: States) -> RouteScores:
    return score_routes(held_out, fit_tokens(demo.states(queries)).tokens)


def _given(name: str | None, true: Sequence[Query], assigned: Sequence[Query]) -> Given:
    return Given(
        expert=name or "nobody",
        num_true=sum(query.expert == name for query in true),
        num_assigned=sum(query.expert == name for query in assigned),
        num_agreed=sum(a.expert == name == b.expert for a, b in zip(true, assigned, strict=True)),
    )
