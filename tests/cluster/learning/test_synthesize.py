"""Query sets that the models of a cluster.yaml write: a row a question, labelled with the expert."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.config.cluster_config import load_config
from cluster.errors import ConfigError
from cluster.learning.synthesize import synthesize_queries
from experts.errors import DataError
from experts.learn.formats import read_queries
from experts.learn.queries import Query
from experts.synthesize.questions import Draw, Synthesis
from tests.tiny.asking_models import ELEMENTS, GREETINGS, SUBJECT, write_asking_cluster

WARM = Draw(4, temperature=0.7)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_asking_cluster(tmp_path_factory.mktemp("asking"), tmp_path_factory)


def synthesized(config: Path, name: str, output: Path, draw: Draw = WARM, **options: Any) -> Synthesis:
    loaded = load_config(config, tokens_required=False)
    return synthesize_queries(loaded, name, output, draw, progress=lambda *report: None, **options)


def questions(queries: list[Query]) -> list[str]:
    return [query.messages[0]["content"] for query in queries]


def test_an_expert_writes_a_labelled_set_of_its_own_questions(config: Path, tmp_path: Path):
    found = synthesized(config, "chemistry", tmp_path / "new" / "set.jsonl")
    queries = read_queries(tmp_path / "new" / "set.jsonl")
    assert questions(queries) == found.questions
    assert {query.expert for query in queries} == {"chemistry"}
    assert all(len(query.messages) == 1 and query.messages[0]["role"] == "user" for query in queries)
    assert {*found.questions} & {*ELEMENTS}
    assert not {*found.questions} & {*GREETINGS}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["set.jsonl"]


def test_the_meta_writes_general_questions(config: Path, tmp_path: Path):
    found = synthesized(config, "meta", tmp_path / "set.jsonl")
    queries = read_queries(tmp_path / "set.jsonl")
    assert {*questions(queries)} & {*GREETINGS}
    assert "too general" not in found.summary()
    assert [json.loads(line)["expert"] for line in (tmp_path / "set.jsonl").read_text().splitlines()] == [
        None
    ] * len(queries)


def test_an_adapter_in_a_pool_writes_as_its_merged_model_does(config: Path, tmp_path: Path):
    merged = synthesized(config, "chemistry", tmp_path / "merged.jsonl")
    adapted = synthesized(config, "adapted", tmp_path / "adapted.jsonl")
    assert adapted.questions == merged.questions
    assert {query.expert for query in read_queries(tmp_path / "adapted.jsonl")} == {"adapted"}


@pytest.mark.parametrize("name", ["distant", "unheard-of"])
def test_with_a_subject_the_meta_writes_for_any_expert(config: Path, tmp_path: Path, name: str):
    found = synthesized(config, name, tmp_path / "set.jsonl", about=SUBJECT)
    queries = read_queries(tmp_path / "set.jsonl")
    assert questions(queries) == found.questions
    assert {query.expert for query in queries} == {name}
    assert {message["role"] for query in queries for message in query.messages} == {"user"}
    assert {*found.questions} & {*ELEMENTS}
    assert not {*found.questions} & {*GREETINGS}


def test_a_file_that_exists_is_replaced_only_by_force(config: Path, tmp_path: Path):
    output = tmp_path / "set.jsonl"
    output.write_text("corrected by hand")
    with pytest.raises(ConfigError, match=r"set\.jsonl: exists; .*--output.*--force"):
        synthesized(config, "meta", output)
    assert output.read_text() == "corrected by hand"
    found = synthesized(config, "meta", output, force=True)
    assert questions(read_queries(output)) == found.questions


def test_a_folder_that_cannot_be_made_is_refused_before_a_model_is_loaded(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.learning.synthesize._askers", lambda *arguments: pytest.fail("loaded"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"set\.jsonl: cannot be written: .*--output"):
        synthesized(config, "meta", tmp_path / "file" / "set.jsonl")


def test_a_set_that_cannot_be_written_is_refused(config: Path, tmp_path: Path):
    with pytest.raises(ConfigError, match=r"cannot be written: .*--output"):
        synthesized(config, "meta", tmp_path, force=True)


@pytest.mark.parametrize(
    ("name", "about", "message"),
    [
        ("chem", "", r"no expert 'chem'; use one of adapted, chemistry, meta; for an expert .*--about"),
        ("distant", "", r"experts\.distant\.remote: a remote model cannot write .*--about"),
        ("No Name", "elements", r"'No Name' is not a valid expert name; use "),
    ],
)
def test_a_name_without_a_model_to_write_is_refused(
    config: Path, tmp_path: Path, name: str, about: str, message: str
):
    with pytest.raises(ConfigError, match=message):
        synthesized(config, name, tmp_path / "set.jsonl", about=about)
    assert not list(tmp_path.iterdir())


def test_without_any_question_no_file_is_written(config: Path, tmp_path: Path):
    draw = Draw(1, margin=100.0)
    with pytest.raises(DataError, match=r"no question for 'chemistry' \(kept 0 of 20: .*--about"):
        synthesized(config, "chemistry", tmp_path / "set.jsonl", draw)
    assert not list(tmp_path.iterdir())
