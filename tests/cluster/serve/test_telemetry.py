"""Logs and traces: every replica gets the same settings, and only settings that can take effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.serve.schema import DeploymentSchema, EncodingType

from cluster.config.cluster_config import load_config
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from deployments.model import ModelSettings
from router.table import RouteTable
from tests.cluster.serve.test_deploy_config import load, make_world

TRACING = {"endpoint": "https://collector:4318/v1/traces", "sampling_ratio": 0.5, "headers_env": "OTLP"}


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_world(tmp_path, "roman")


def deployments(folder: Path, world: dict[str, Any]) -> dict[str, dict[str, Any]]:
    deploy = build_serve_config(load(folder, world))
    return {app["name"]: app["deployments"][0] for app in deploy["applications"]}


def test_every_replica_gets_the_tracing_settings(tmp_path: Path, world: dict[str, Any]):
    world["tracing"] = TRACING
    found = deployments(tmp_path, world)
    table = RouteTable.model_validate(found.pop("router")["user_config"])
    assert table.tracing is not None
    assert table.tracing.model_dump(include=set(TRACING)) == TRACING
    for deployment in found.values():
        assert ModelSettings.model_validate(deployment["user_config"]).tracing == table.tracing


def test_without_the_block_nothing_is_traced(tmp_path: Path, world: dict[str, Any]):
    for deployment in deployments(tmp_path, world).values():
        assert "tracing" not in deployment["user_config"]
        assert "logging_config" not in deployment


def test_every_replica_logs_in_the_same_format(tmp_path: Path, world: dict[str, Any]):
    world["log_format"] = "json"
    for deployment in deployments(tmp_path, world).values():
        assert DeploymentSchema.model_validate(deployment).logging_config.encoding == EncodingType.JSON


@pytest.mark.parametrize("exporter", ["nothing_of_this_name", "nothing_of_this_name.http"])
def test_tracing_without_its_packages_is_refused_where_replicas_would_miss_them(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch, exporter: str
):
    monkeypatch.setattr("cluster.serve.telemetry.EXPORTER", exporter)
    build_serve_config(load(tmp_path, world))
    world["tracing"] = TRACING
    with pytest.raises(ConfigError, match=r"tracing: needs OpenTelemetry.* install .*\[otel\]"):
        build_serve_config(load(tmp_path, world))
    for block in (world["meta"], world["experts"]["roman"]):
        block["model"]["path"] = str(tmp_path / block["model"]["path"])
    load(tmp_path, world)
    build_serve_config(load_config(tmp_path / "cluster.yaml", models_required=False))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"endpoint": "collector:4318"}, "tracing.endpoint: should match pattern"),
        ({"endpoint": "http://me:SECRET@collector"}, "tracing.endpoint: holds credentials; leave them out"),
        ({"sampling_ratio": 1.5}, "tracing.sampling_ratio: should be less than or equal to 1"),
        ({"sampling": 1.0}, "tracing.sampling: unknown key; did you mean 'sampling_ratio'?"),
        ({"headers_env": "A B"}, "tracing.headers_env: should match pattern"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, world: dict[str, Any], change: dict[str, Any], message: str):
    world["tracing"] = TRACING | change
    with pytest.raises(ConfigError) as error:
        load(tmp_path, world)
    assert message in str(error.value)
    assert "SECRET" not in str(error.value)
