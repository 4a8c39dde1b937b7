"""What tokens are learned from: the data, and what the meta adds to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.learning.learned_set import as_learned, learned_data
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import Warn
from cluster.learning.training_set import TrainingSet, training_set
from experts.checkpoint import Checkpoint
from experts.learn import Query
from experts.learn.queries import dataset_digest
from experts.synthesize.user_turn import UserTurn
from tests.tiny.asking_models import ELEMENTS, GREETINGS, write_asking_cluster
from tests.tiny.taught_cluster import taught_models, write_cluster
from tests.tiny.taught_meta import query, query_set

DATA = [
    *(query(question, "chemistry") for question in ELEMENTS),
    *(query(text, None) for text in GREETINGS[:2]),
]
OPTIONS = LearnOptions(Path("queries.jsonl"), batch_size=8, mid_answer="ignore", negatives=14)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    path = write_asking_cluster(tmp_path_factory.mktemp("asking"), tmp_path_factory)
    return load_config(path, tokens_required=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The sources of all models that are loaded."""
    found: list[str] = []
    load: Callable[..., Any] = Checkpoint.load

    def counted(self: Checkpoint, *arguments: str) -> Any:
        found.append(self.source)
        return load(self, *arguments)

    monkeypatch.setattr(Checkpoint, "load", counted)
    return found


def made(
    config: ClusterConfig,
    options: LearnOptions,
    data: Sequence[Query] = DATA,
    warn: Warn = lambda line: None,
) -> TrainingSet:
    return training_set(config, data, options, lambda *report: None, warn)


def must_not_run(*arguments: object) -> None:
    raise AssertionError("the meta was asked again")


def of_meta(found: TrainingSet) -> list[str]:
    return [query.question for query in found.queries if query.origin == "meta"]


def test_the_meta_thinks_of_the_general_queries_that_the_data_lacks(config: ClusterConfig, folder: Path):
    warnings: list[str] = []
    found = made(config, replace(OPTIONS, states=folder), warn=warnings.append)
    assert found.queries[: len(DATA)] == DATA
    written = of_meta(found)
    assert {*written} & {*GREETINGS}
    assert not {*written} & {query.question for query in DATA}
    assert {query.expert for query in found.queries[len(DATA) :]} == {None}
    assert found.states.num_queries == len(found.queries)
    # A meta as small as this one has not more to ask.
    num_found = len(written) + found.num_left_out
    assert [line.split(";")[0] for line in warnings] == [
        f"the meta wrote only {num_found} of 12 general questions"
    ]


def test_questions_of_the_meta_that_look_like_an_experts_are_left_out(config: ClusterConfig, folder: Path):
    """This meta is asked about elements too, and half of those questions are not in the data."""
    few = [one for one in DATA if one.question not in ELEMENTS[:2]]
    found = made(config, replace(OPTIONS, states=folder), few)
    assert found.num_left_out > 0
    assert not [text for text in of_meta(found) if "symbol" in text]
    assert [one for one in found.queries if one.origin == "data"] == few
    # The digest is that of the queries that are left, so it tells tokens what they were learned from.
    assert found.states.dataset_digest == dataset_digest(found.queries)


def test_general_queries_of_the_data_stay_however_alike_they_look(config: ClusterConfig, folder: Path):
    data = [*DATA, query("what is the symbol of love?", None)]
    assert made(config, replace(OPTIONS, states=folder), data).queries[: len(data)] == data


def test_enough_general_queries_or_a_number_of_0_ask_for_none(
    config: ClusterConfig, folder: Path, loads: list[str]
):
    for negatives in (2, 0):
        found = made(config, replace(OPTIONS, states=folder / str(negatives), negatives=negatives))
        assert found.queries == DATA
    assert not list(folder.glob("*/general-questions-*"))


def test_the_questions_are_written_once_for_each_meta(config: ClusterConfig, monkeypatch: pytest.MonkeyPatch):
    first = of_meta(made(config, OPTIONS))
    monkeypatch.setattr("cluster.learning.negatives.synthesize", must_not_run)
    assert of_meta(made(config, OPTIONS)) == first
    assert made(config, OPTIONS, DATA[:-1]).num_from("meta") > 0


def test_the_meta_is_loaded_once_for_all_that_it_does(
    tmp_path_factory: pytest.TempPathFactory, loads: list[str]
):
    path = write_cluster(tmp_path_factory.mktemp("taught"), taught_models(tmp_path_factory))
    taught = load_config(path, tokens_required=False)
    options = replace(OPTIONS, mid_answer="none", negatives=31)
    assert any(query.own_answer for query in made(taught, options, query_set(0, 30)).queries)
    assert list(Path(taught.source).parent.glob(".etr/states/*/general-questions-*"))
    assert len(loads) == 1
    made(taught, options, query_set(0, 30))
    assert len(loads) == 1


def test_a_template_without_a_place_for_questions_is_a_warning(
    config: ClusterConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("experts.synthesize.user_turn._shared", lambda prompts: ())
    with pytest.raises(Exception, match="nothing before a user's text"):
        UserTurn.of(Checkpoint(str(Path(config.source).parent / "models" / "meta")).load_renderer())
    warnings: list[str] = []
    found = made(config, replace(OPTIONS, states=folder), warn=warnings.append)
    assert found.queries == DATA
    assert len(warnings) == 1


def test_with_ray_only_kept_questions_are_used(config: ClusterConfig, folder: Path, monkeypatch):
    monkeypatch.setattr("cluster.learning.state_cache._on_ray", lambda config, meta, address: (meta, None))
    options = replace(OPTIONS, states=folder / "ray", ray_address="10.0.0.1:6379")
    warnings: list[str] = []
    assert made(config, options, warn=warnings.append).queries == DATA
    assert "run the command once without --ray" in warnings[0]
    there = replace(options, states=folder / "kept")
    first = made(config, replace(there, ray_address=None))
    assert made(config, there).queries == first.queries


def test_other_methods_find_what_the_tokens_were_learned_from(config: ClusterConfig, folder: Path):
    found = made(config, replace(OPTIONS, states=folder))
    digests = {"", found.states.dataset_digest}
    assert as_learned(folder, DATA, digests) == found.queries
    assert as_learned(folder, DATA[1:], digests) == DATA[1:]
    assert as_learned(folder, DATA, {"another"}) == DATA
    assert learned_data(folder, digests) == DATA
    (kept,) = folder.glob("learned-*")
    kept.write_bytes(kept.read_bytes()[:-9])
    assert as_learned(folder, DATA, digests) == DATA
    assert learned_data(folder, digests) == []
