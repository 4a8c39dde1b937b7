"""How an expert's token is learned: queries → states → fit."""

from experts.learn.fit import FitResult, fit_tokens
from experts.learn.formats import read_queries
from experts.learn.learn import learn_tokens
from experts.learn.queries import Query
from experts.learn.route import RouteScores, route, score_routes
from experts.learn.states import States, compute_states

__all__ = [
    "FitResult",
    "Query",
    "RouteScores",
    "States",
    "compute_states",
    "fit_tokens",
    "learn_tokens",
    "read_queries",
    "route",
    "score_routes",
]
