"""The `embeddings` block: embedding models as applications of a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.config.cluster_config import ClusterConfig, check_config
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from router.table import RouteTable


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("meta", "bge"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    return tmp_path


def load(folder: Path, embedder: dict[str, Any] | None = None, **more: Any) -> ClusterConfig:
    block = {"model": {"path": "bge"}, **(embedder or {})}
    data = {"meta": {"model": {"path": "meta"}}, "embeddings": {"bge": block}, **more}
    return check_config(data, folder / "cluster.yaml")


def test_an_embedder_is_an_application_and_an_entry_of_the_route_table(folder: Path):
    config = load(
        folder, {"engine": {"pooling": "cls", "max_streams": 8}, "autoscaling": {"min_replicas": 0}}
    )
    apps = {app["name"]: app for app in build_serve_config(config)["applications"]}
    app = apps["embedder-bge"]
    assert app["import_path"] == "deployments.apps:build_embedder"
    assert (app["args"]["model"], app["args"]["engine"]["pooling"]) == ({"path": str(folder / "bge")}, "cls")
    assert app["deployments"][0]["max_ongoing_requests"] == 8
    table = RouteTable.model_validate(apps["router"]["deployments"][0]["user_config"])
    entry = table.embedders["bge"]
    assert (entry.app, entry.scales_to_zero, entry.on_unavailable) == ("embedder-bge", True, "wait")
    assert table.model_ids == ["generalist", "generalist/meta", "generalist/bge"]
    assert not table.experts


def test_a_cluster_without_embedders_has_the_same_route_table_as_before(folder: Path):
    config = check_config({"meta": {"model": {"path": "meta"}}}, folder / "cluster.yaml")
    assert "embedders" not in json.dumps(build_serve_config(config))


@pytest.mark.parametrize(
    ("embedder", "more", "problem"),
    [
        ({"engine": {"pooling": "max"}}, {}, "pooling"),
        ({"resources": {"num_gpus": 2}}, {}, "runs on one device"),
        ({"deadlines": {"gap_s": 5}}, {}, "gap_s has no effect on embeddings"),
        ({}, {"pools": {"bge": {"model": {"path": "meta"}, "engine": {"max_adapters": 1}}}}, "rename one"),
        ({}, {"http": {"aliases": {"small": "generalist/gone"}}}, "generalist/bge"),
    ],
    ids=["pooling", "gpus", "gap", "name", "alias"],
)
def test_what_cannot_take_effect_is_refused(
    folder: Path, embedder: dict[str, Any], more: dict[str, Any], problem: str
):
    with pytest.raises(ConfigError, match=problem):
        load(folder, embedder, **more)


def test_an_alias_may_stand_for_an_embedder(folder: Path):
    config = load(folder, http={"aliases": {"text-embedding-3-small": "generalist/bge"}})
    assert config.http.aliases == {"text-embedding-3-small": "generalist/bge"}
