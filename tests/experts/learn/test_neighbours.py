"""Queries that look alike to the meta, by their hidden states."""

from __future__ import annotations

from dataclasses import replace

import torch

from experts.learn import Query, States
from experts.learn.neighbours import near_experts
from tests.tiny.taught_meta import query


def placed(states: States, points: list[tuple[float, float]]) -> States:
    """One row per query, at these points."""
    chosen = states.of_queries([3] * len(points))  # small talk: several rows each
    hidden = torch.zeros_like(chosen.hidden)
    hidden[chosen.first_rows, :2] = torch.tensor(points)
    return replace(chosen, hidden=hidden)


def test_a_query_is_near_an_expert_if_one_of_its_nearest_others_is_the_experts(states: States):
    queries = [query("a", "roman"), query("b", None), query("c", None), query("d", None)]
    # Far away from the origin, where all cosines are nearly 1.
    points = [(101.0, 101.0), (101.1, 100.9), (99.0, 99.0), (98.9, 99.2)]
    assert near_experts(placed(states, points), queries) == [False, True, False, False]
    assert near_experts(placed(states, points), queries, 3) == [False, True, True, True]
    assert near_experts(placed(states, points), queries, 9) == [False, True, True, True]


def test_questions_of_the_same_expert_are_near_and_small_talk_is_not(states: States, queries: list[Query]):
    assert near_experts(states, queries) == [query.expert is not None for query in queries]


def test_the_same_is_found_in_parts(states: States, queries: list[Query], monkeypatch):
    whole = near_experts(states, queries, 5)
    monkeypatch.setattr("experts.learn.neighbours._MAX_COSINES", 7 * len(queries))
    assert near_experts(states, queries, 5) == whole


def test_a_single_query_has_no_neighbours(states: States, queries: list[Query]):
    assert near_experts(states.of_queries([0]), queries[:1]) == [False]
