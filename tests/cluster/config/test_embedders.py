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


def test_an_embedder_may_be_behind_a_url(folder: Path):
    remote = {"url": "https://models.example/v1", "model": "vectors-1", "max_streams": 8}
    config = load(folder, embeddings={"far": {"remote": remote}})
    apps = {app["name"]: app for app in build_serve_config(config)["applications"]}
    app = apps["embedder-far"]
    assert app["import_path"] == "deployments.apps:build_remote_embedder"
    assert app["args"]["remote"]["model"] == "vectors-1"
    assert app["deployments"][0]["max_ongoing_requests"] == 8
    assert app["deployments"][0]["ray_actor_options"]["num_cpus"] == 0.1
    table = RouteTable.model_validate(apps["router"]["deployments"][0]["user_config"])
    assert table.model_ids == ["generalist", "generalist/meta", "generalist/far"]


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ({"remote": {"continuation": "never"}}, "remote.continuation has no effect on embeddings"),
        ({"remote": {"omit": ["seed"]}}, "remote.omit has no effect"),
        (
            {"remote": {}, "resources": {"num_gpus": 1}},
            "num_gpus has no effect on a model that runs",
        ),
        ({"remote": {}, "autoscaling": {"target_tokens_in_flight": 5}}, "use target_ongoing_requests"),
        ({"remote": {}, "deadlines": {"gap_s": 5}}, "gap_s has no effect"),
        ({"remote": {}, "model": {"path": "bge"}}, "exactly one of model, remote"),
        ({"remote": {"url": "https://models.example/v1/embeddings"}}, "names one endpoint"),
    ],
    ids=["continuation", "omit", "gpus", "tokens", "gap", "both", "url"],
)
def test_settings_without_effect_on_a_remote_embedder_are_refused(
    folder: Path, block: dict[str, Any], problem: str
):
    remote = {"url": "https://models.example/v1", "model": "vectors-1", **block["remote"]}
    with pytest.raises(ConfigError, match=problem):
        load(folder, embeddings={"far": {**block, "remote": remote}})


def test_an_alias_may_stand_for_an_embedder(folder: Path):
    config = load(folder, http={"aliases": {"text-embedding-3-small": "generalist/bge"}})
    assert config.http.aliases == {"text-embedding-3-small": "generalist/bge"}
