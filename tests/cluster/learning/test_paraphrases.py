"""Paraphrases: of the queries that are learned from alone, and kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.learning.checkpoints import KeptCheckpoint, checkpoint_of
from cluster.learning.meta_texts import MetaWriter
from cluster.learning.options import LearnOptions
from cluster.learning.paraphrases import paraphrases
from experts.learn import Query
from experts.learn.split import split_queries
from tests.tiny.taught_cluster import taught_models, write_cluster
from tests.tiny.taught_meta import query, query_set

DATA = query_set(0, 5)
OPTIONS = LearnOptions(Path("queries.jsonl"), paraphrase=2)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    path = write_cluster(tmp_path_factory.mktemp("cluster"), taught_models(tmp_path_factory))
    return load_config(path, tokens_required=False)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the meta is asked. It puts "say" before a question, or the question itself for every second."""
    found: list[str] = []

    def write(model: object, renderer: object, requests: Sequence[Query], **options: object) -> list[str]:
        questions = [request.question.split("\n\n")[1] for request in requests]
        found.extend(questions)
        return [f"say {text}" if i % 2 else text for i, text in enumerate(questions)]

    monkeypatch.setattr("cluster.learning.paraphrases.write_paraphrases", write)
    return found


def found_by(
    config: ClusterConfig, folder: Path, data: Sequence[Query] = DATA, options: LearnOptions = OPTIONS
) -> list[Query]:
    meta = KeptCheckpoint.of(checkpoint_of(config.meta))
    options = replace(options, states=folder)
    return paraphrases(data, MetaWriter(config, options, meta, lambda *report: None, pytest.fail))


def test_only_queries_that_are_learned_from_are_put_in_other_words(config, tmp_path, asked):
    found = found_by(config, tmp_path)
    learned, held_out = split_queries(DATA, OPTIONS.held_out_share)
    assert asked == [DATA[index].question for index in learned for _ in range(2)]
    assert not {*asked} & {DATA[index].question for index in held_out}
    assert [query.question for query in found] == [f"say {DATA[index].question}" for index in learned]
    assert [query.expert for query in found] == [DATA[index].expert for index in learned]
    assert {query.origin for query in found} == {"paraphrase"}


def test_questions_of_the_meta_are_left_as_they_are(config, tmp_path, asked):
    of_meta = [replace(query(f"how are you {i}?", None), origin="meta") for i in range(10)]
    assert found_by(config, tmp_path, [*DATA, *of_meta]) == found_by(config, tmp_path)
    assert not [text for text in asked if "how are you" in text]


def test_a_wording_that_is_a_query_already_is_dropped(config, tmp_path, asked):
    learned, _ = split_queries(DATA, OPTIONS.held_out_share)
    taken = query(f"say {DATA[learned[0]].question}", None)
    found = found_by(config, tmp_path, [*DATA, replace(taken, origin="meta")])
    assert [query.question for query in found] == [f"say {DATA[index].question}" for index in learned[1:]]


def test_the_wordings_are_kept(config, tmp_path, asked):
    first = found_by(config, tmp_path)
    asked.clear()
    assert found_by(config, tmp_path) == first
    assert asked == []
    assert [path.name.rpartition("-")[0] for path in tmp_path.iterdir()] == ["paraphrases"]


def test_by_default_the_meta_is_not_asked(config, tmp_path, asked):
    assert found_by(config, tmp_path, options=LearnOptions(Path("queries.jsonl"))) == []
    assert not list(tmp_path.iterdir())
