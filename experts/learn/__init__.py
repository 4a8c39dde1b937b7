"""Learns expert tokens: queries → hidden states of the meta → fit."""

from experts.learn.assign import DEFAULT_MARGIN, AssignedSet, assign_queries
from experts.learn.calibrate import Calibration, calibrate
from experts.learn.fit import FitResult, fit_tokens
from experts.learn.formats import read_queries
from experts.learn.hidden_states import States, compute_states
from experts.learn.learn import FitReport, learn_tokens, require_labels
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement, RouteScores, confusion, judge, route, score_routes
from experts.learn.shards import cache_states
from experts.learn.split import split_queries

__all__ = [
    "DEFAULT_MARGIN",
    "AssignedSet",
    "Calibration",
    "FitResult",
    "Judgement",
    "FitReport",
    "Query",
    "RouteScores",
    "States",
    "assign_queries",
    "cache_states",
    "calibrate",
    "compute_states",
    "confusion",
    "fit_tokens",
    "judge",
    "learn_tokens",
    "read_queries",
    "require_labels",
    "route",
    "score_routes",
    "split_queries",
]
