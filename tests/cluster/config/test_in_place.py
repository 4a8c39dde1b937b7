"""Experts that live in the meta: what cluster.yaml may say of them, and how they are deployed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.config.cluster_config import ClusterConfig
from cluster.serve.deploy_config import build_serve_config
from deployments.model import ModelSettings
from experts.adapter import adapter_digest
from router.table import ModelEntry, RouteTable
from tests.cluster.config.test_pool import changed, refused
from tests.cluster.serve.test_deploy_config import deployment, load
from tests.support.pool_world import make_pool_world


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    """`law`, an activated LoRA, is in the meta; `chem`, an ordinary one, is in a pool."""
    world = make_pool_world(tmp_path, "law", "chem")
    activate(tmp_path / "adapters" / "law")
    world["experts"]["law"]["adapter"]["pool"] = "meta"
    world["meta"]["engine"] = {"max_adapters": 2}
    return world


def activate(folder: Path) -> None:
    settings = json.loads((folder / "adapter_config.json").read_bytes())
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"alora_invocation_tokens": [5, 6]}))


def user_config(config: ClusterConfig, app: str) -> dict[str, Any]:
    found: dict[str, Any] = deployment(build_serve_config(config), app)["user_config"]
    return found


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_the_meta_has_the_adapter_and_the_route_table_leads_there(
    tmp_path: Path, world: dict[str, Any], kind: str
):
    world["meta"]["engine"]["kind"] = kind
    config = load(tmp_path, world)
    settings = ModelSettings.model_validate(user_config(config, "meta"))
    assert settings.adapters is not None
    assert settings.adapters["law"].invocation == "exact"
    assert settings.adapters["law"].digest == adapter_digest(tmp_path / "adapters" / "law")
    assert set(user_config(config, "pool-base")["adapters"]) == {"chem"}
    table = RouteTable.model_validate(user_config(config, "router"))
    assert table.in_place == {"law": "law"}
    max_streams = table.meta.max_streams  # vLLM has a default of its own
    expected = ModelEntry(app="meta", adapter="law", on_unavailable="wait", max_streams=max_streams)
    assert table.experts["law"] == expected


def test_a_meta_has_room_for_adapters_that_come_later(tmp_path: Path, world: dict[str, Any]):
    del world["experts"]["law"]
    assert user_config(load(tmp_path, world), "meta")["adapters"] == {}


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("meta/engine", {}, "meta.engine.max_adapters: 0 is below the 1 experts of the meta; raise it"),
        (
            "experts/law/adapter/invocation",
            "approximate",
            "is an activated LoRA, for which adapter.invocation",
        ),
        ("experts/chem/adapter/pool", "meta", "chem: is an ordinary LoRA, which was trained to read whole"),
        (
            "experts/chem/adapter/invocation",
            "exact",
            "invocation has an effect only with pool: meta; remove it",
        ),
        ("experts/law/cold_start", "meta", "experts.law.cold_start has no effect with pool: meta"),
        ("experts/law/on_unavailable", "meta", "experts.law.on_unavailable has no effect with pool: meta"),
    ],
)
def test_what_cannot_take_effect_is_refused(
    tmp_path: Path, world: dict[str, Any], path: str, value: Any, complaint: str
):
    assert complaint in refused(tmp_path, changed(world, path, value))


def test_an_ordinary_adapter_may_take_over_if_the_file_says_so(tmp_path: Path, world: dict[str, Any]):
    world["experts"]["chem"]["adapter"] |= {"pool": "meta", "invocation": "approximate"}
    adapters = user_config(load(tmp_path, world), "meta")["adapters"]
    assert [(name, each["invocation"]) for name, each in adapters.items()] == [
        ("chem", "approximate"),
        ("law", "exact"),
    ]


@pytest.mark.parametrize("kind", ["transformers", "vllm"])
def test_an_activated_adapter_may_be_in_a_pool(tmp_path: Path, world: dict[str, Any], kind: str):
    world["experts"]["law"]["adapter"]["pool"] = "base"
    world["pools"]["base"]["engine"]["kind"] = kind
    assert "invocation" not in user_config(load(tmp_path, world), "pool-base")["adapters"]["law"]
