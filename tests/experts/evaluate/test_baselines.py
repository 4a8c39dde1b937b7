"""Routers learned from states: what each of them can learn, and how it decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from experts.errors import DataError
from experts.evaluate.baselines import judge_baselines
from experts.evaluate.prompted import judge_prompted
from experts.evaluate.state_rows import experts_of, only_first_rows
from experts.learn import Query, RouteScores, States
from experts.learn.targets import WORD
from tests.tiny.taught_meta import EXPERTS, query_set

NAMES = ("law", "math")
DIM = 8


def synthetic(labels: Sequence[Sequence[int]], *, seed: int, noise: float = 0.2) -> States:
    """A list of row labels for each query (NAMES by index, or WORD); each label has its own direction."""
    generator = torch.Generator().manual_seed(seed)
    expert = torch.tensor([label for rows in labels for label in rows])
    directions = torch.eye(DIM)[:3] * 3
    hidden = directions[expert] + noise * torch.randn(len(expert), DIM, generator=generator)
    zeros = torch.zeros(len(expert))
    query = torch.tensor([index for index, rows in enumerate(labels) for _ in rows])
    return States(
        hidden=hidden,
        log_z=zeros,
        max_logit=zeros,
        target_logit=zeros,
        expert=expert,
        query=query,
        head_mean=torch.zeros(DIM),
        expert_names=NAMES,
        meta_name="meta",
        meta_fingerprint="0" * 16,
        dataset_digest="1" * 16,
    )


CHAT = [WORD, WORD, WORD]
LABELS = [[0], [1], [WORD, 0], [WORD, 1], CHAT, CHAT] * 15


@pytest.fixture(scope="module")
def train() -> States:
    return synthetic(LABELS, seed=0)


@pytest.fixture(scope="module")
def test() -> States:
    return synthetic(LABELS, seed=1)


def test_first_rows_and_experts_of_queries(test):
    assert experts_of(test)[:5] == ["law", "math", "law", "math", None]
    assert test.first_rows[:6].tolist() == [0, 1, 2, 4, 6, 9]
    assert only_first_rows(test, test.expert)[:6].tolist() == [0, 1, WORD, WORD, WORD, WORD]


@pytest.mark.parametrize("name", ["kNN", "probe"])
def test_states_that_can_be_told_apart_are_handed_over_at_the_right_word(train, test, name):
    scores = RouteScores.of(judge_baselines(train, test)[name])
    assert scores == RouteScores(1, 0, 0, 0, 0)


@pytest.mark.parametrize("name", ["kNN", "probe"])
def test_with_hand_overs_only_at_the_start_greeted_queries_stay_with_the_meta(train, test, name):
    scores = RouteScores.of(judge_baselines(train, test, only_at_start=True)[name])
    assert scores == RouteScores(0.5, 0, 0, 0.5, 0)


@pytest.mark.parametrize("name", ["kNN", "probe"])
def test_a_row_like_those_of_an_expert_hands_over_too_early(train, test, name):
    greeted = (test.query == 2).nonzero()[0, 0]
    hidden = test.hidden.clone()
    hidden[greeted] = test.hidden[greeted + 1]
    judgement = judge_baselines(train, replace(test, hidden=hidden))[name][2]
    assert (judgement.routed, judgement.outcome) == ("law", "early")


def test_clusters_decide_at_the_query_and_so_never_too_early(train, test):
    judgements = judge_baselines(train, test)["clusters"]
    plain = [judgement for index, judgement in enumerate(judgements) if index % 6 in (0, 1)]
    assert {judgement.outcome for judgement in plain} == {"right"}
    assert not any(judgement.early for judgement in judgements)


def test_clusters_decide_by_the_majority_of_their_training_queries(test):
    train = synthetic([[0], [1], [WORD, 0], CHAT, CHAT, CHAT, CHAT] * 15, seed=0, noise=0.0)
    judgements = judge_baselines(train, test)["clusters"]
    assert [judgement.routed for judgement in judgements[:6]] == ["law", "math", None, None, None, None]


def test_clusters_are_the_same_every_time(train, test):
    assert judge_baselines(train, test)["clusters"] == judge_baselines(train, test)["clusters"]


def test_noise_routes_no_better_than_chance(test):
    hidden = torch.randn(len(test), DIM, generator=torch.Generator().manual_seed(2))
    learned_from = replace(test, hidden=hidden)
    judged = replace(test, hidden=torch.randn(len(test), DIM, generator=torch.Generator().manual_seed(3)))
    for judgements in judge_baselines(learned_from, judged).values():
        assert RouteScores.of(judgements).accuracy < 0.45


@pytest.mark.parametrize("labels", [[CHAT] * 3, [[0]] * 3])
def test_one_label_alone_is_always_given(labels, test):
    expected = None if labels[0] is CHAT else "law"
    for judgements in judge_baselines(synthetic(labels, seed=4), test).values():
        assert {judgement.routed for judgement in judgements} == {expected}


def test_few_and_equal_queries_are_enough(test):
    train = synthetic([[0], [1], CHAT], seed=5, noise=0.0)
    assert {len(judged) for judged in judge_baselines(train, test).values()} == {len(LABELS)}
    same = synthetic([[0]] * 40 + [[1]] * 40, seed=5, noise=0.0)
    alike = synthetic([[0], [1]] * 5, seed=6)
    assert RouteScores.of(judge_baselines(same, alike)["clusters"]).accuracy == 1


def test_experts_are_matched_by_name_not_by_number(train, test):
    swapped = replace(train, expert_names=("math", "law"))
    assert RouteScores.of(judge_baselines(swapped, test)["probe"]).wrong_expert == 1


def test_a_prompted_meta_chooses_one_of_the_names_for_every_query(taught_model, renderer, monkeypatch):
    monkeypatch.setattr(taught_model.config, "max_position_embeddings", 2048)
    queries, train = query_set(300, 2), query_set(0, 2)
    seen: list[tuple[int, int, str]] = []
    judged = judge_prompted(
        taught_model,
        renderer,
        queries,
        expert_names=EXPERTS,
        train=train,
        progress=lambda *report: seen.append(report),
    )
    assert [judgement.expert for judgement in judged] == [query.expert for query in queries]
    assert {judgement.routed for judgement in judged} <= {*EXPERTS, None}
    assert not any(judgement.early for judgement in judged)
    assert seen == [(done, len(queries), "prompted meta") for done in range(len(queries) + 1)]


def test_a_prompt_that_does_not_fit_the_window_is_an_error_that_names_the_query(taught_model, renderer):
    queries = [Query(({"role": "user", "content": "ten 1?"},), "roman", place="line 7")]
    with pytest.raises(DataError, match=r"line 7: .* length is 128 tokens"):
        judge_prompted(taught_model, renderer, queries, expert_names=EXPERTS, train=query_set(0, 2))
