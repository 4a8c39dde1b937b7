"""The meta's own answers: written once, kept beside the states, and only where they are wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.routing import RoutingConfig
from cluster.errors import ConfigError
from cluster.learning.checkpoints import KeptCheckpoint, checkpoint_of
from cluster.learning.meta_texts import MetaWriter
from cluster.learning.options import LearnOptions
from cluster.learning.own_answers import with_own_answers
from cluster.learning.query_sets import Warn
from experts.learn import Query
from tests.tiny.taught_cluster import taught_models, write_cluster
from tests.tiny.taught_meta import query, query_set

QUERIES = [*query_set(0, 3), query("nice day", None)]
OPTIONS = LearnOptions(Path("queries.jsonl"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClusterConfig:
    path = write_cluster(tmp_path_factory.mktemp("cluster"), taught_models(tmp_path_factory))
    return load_config(path, tokens_required=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "states"


def answered(config: ClusterConfig, folder: Path, options: LearnOptions = OPTIONS) -> list[Query]:
    """The queries with own answers; nothing may be warned of."""
    return with_own_answers(QUERIES, writer(config, replace(options, states=folder), refuse))


def writer(config: ClusterConfig, options: LearnOptions, warn: Warn) -> MetaWriter:
    meta = KeptCheckpoint.of(checkpoint_of(config.meta))
    return MetaWriter(config, options, meta, lambda *report: None, warn)


def refuse(line: str) -> None:
    raise AssertionError(line)


def must_not_load(*arguments: object, **options: object) -> None:
    raise AssertionError("the meta was loaded")


def test_experts_queries_get_own_answers_and_general_ones_a_response(config: ClusterConfig, folder: Path):
    found = answered(config, folder)
    for before, after in zip(QUERIES, found, strict=True):
        if before.turn:
            assert after == before
        elif before.expert is None:
            assert after == replace(before, response=after.response)
            assert after.response
        else:
            assert after == replace(before, own_answer=after.own_answer)
            assert before.expert in after.own_answer  # that is what the tiny meta answers
    assert not any(query.late for query in found)


def test_kept_answers_are_read_by_the_next_call_with_the_same_meta(
    config: ClusterConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    first = answered(config, folder)
    [kept] = folder.iterdir()
    monkeypatch.setattr("cluster.learning.own_answers.write_answers", must_not_load)
    assert answered(config, folder) == first
    late = answered(config, folder, replace(OPTIONS, mid_answer="late"))
    assert late == [replace(query, late=bool(query.own_answer)) for query in first]
    Path(config.meta.model.path, "model.safetensors").touch()  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="the meta was loaded"):
        answered(config, folder)
    assert [kept] == list(folder.iterdir())


def test_damaged_answers_are_written_again(config: ClusterConfig, folder: Path):
    first = answered(config, folder)
    [kept] = folder.iterdir()
    whole = kept.read_bytes()
    for damaged in (whole[:-5], b"[]", b"{}", b"[1, 2]", b"\xff"):
        kept.write_bytes(damaged)
        assert answered(config, folder) == first
        assert kept.read_bytes() == whole


def test_no_answers_are_written_where_none_are_wanted(
    config: ClusterConfig, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.learning.own_answers.write_answers", must_not_load)
    assert answered(config, folder, replace(OPTIONS, mid_answer="ignore")) == QUERIES
    only_at_start = config.model_copy(update={"routing": RoutingConfig(when="start")})
    assert answered(only_at_start, folder) == QUERIES
    assert not folder.exists()


def test_with_ray_only_kept_answers_are_used(config: ClusterConfig, folder: Path):
    options = replace(OPTIONS, states=folder, ray_address="10.0.0.1:6379")
    warnings: list[str] = []
    plain = with_own_answers(QUERIES, writer(config, options, warnings.append))
    assert plain == QUERIES
    assert len(warnings) == 1
    assert "run the command once without --ray" in warnings[0]
    first = answered(config, folder)
    assert with_own_answers(QUERIES, writer(config, options, refuse)) == first


def test_a_folder_that_cannot_be_written_is_named_before_the_meta_is_loaded(
    config: ClusterConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("cluster.learning.own_answers.write_answers", must_not_load)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file: cannot be written: .*; name another folder with --states"):
        answered(config, tmp_path / "file")
