"""Shadow experts in cluster.yaml: entries without a model, whose tokens are scored and never win."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from deployments.model import ModelSettings
from experts.token import ExpertToken
from router.table import RouteTable
from tests.cluster.serve.test_deploy_config import make_token, make_world


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    world = make_world(tmp_path, "law", "chem")
    make_token(tmp_path, "music", seed=7)
    make_token(tmp_path, "law", seed=8, saved_as="law-v2")
    world["experts"]["music"] = {"shadow": True, "token": "tokens/music.safetensors"}
    world["experts"]["law-v2"] = {"shadow": True, "token": "tokens/law-v2.safetensors", "replaces": "law"}
    return world


def load(folder: Path, world: dict[str, Any]) -> ClusterConfig:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(world, sort_keys=False))
    return load_config(path)


def user_configs(config: ClusterConfig) -> dict[str, Any]:
    apps = build_serve_config(config)["applications"]
    return {app["name"]: app["deployments"][0]["user_config"] for app in apps}


def test_a_shadow_needs_no_application_and_nothing_of_the_experts_changes(tmp_path, world):
    config = load(tmp_path, world)
    assert ([*config.experts], [*config.shadows]) == (["law", "chem"], ["law-v2", "music"])
    found = user_configs(config)
    without = copy.deepcopy(world)
    del without["experts"]["music"], without["experts"]["law-v2"]
    expected = user_configs(load(tmp_path, without))
    assert found.keys() == expected.keys()
    meta, router = found.pop("meta"), found.pop("router")
    shadows = ModelSettings.model_validate(meta).shadows
    assert [
        (name, ExpertToken.from_inline(each.token).name, each.replaces) for name, each in shadows.items()
    ] == [
        ("law-v2", "law-v2", "law"),
        ("music", "music", None),
    ]
    assert RouteTable.model_validate(router).shadows == ("law-v2", "music")
    del meta["shadows"], router["shadows"]
    assert {**found, "meta": meta, "router": router} == expected


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"shadow": False}, "experts.music.shadow: should be True; it is False, correct it"),
        ({"model": {"path": "models/law"}}, "experts.music: needs exactly one of"),
        ({"replaces": "piano"}, "experts.music.replaces: no expert named 'piano'; correct it or remove it"),
        ({"replaces": "law-v2"}, "experts.music.replaces: no expert named 'law-v2'; correct it or remove it"),
        (
            {"autoscaling": {"min_replicas": 0}},
            "experts.music.autoscaling: unknown key",
        ),
        ({"token": "tokens/no.safetensors"}, "experts.music.token: no such file"),
    ],
)
def test_what_a_shadow_cannot_have_is_refused(tmp_path, world, entry, problem):
    world["experts"]["music"] |= entry
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, world)
    assert problem in str(caught.value)


@pytest.mark.parametrize("replaces", [None, "chem"])
def test_a_shadow_takes_the_token_of_another_expert_only_to_replace_it(tmp_path, world, replaces):
    world["experts"]["law-v2"]["replaces"] = replaces
    with pytest.raises(ConfigError, match=r"experts\.law-v2\.token: .* is the token of 'law'"):
        build_serve_config(load(tmp_path, world))


def test_the_decision_log_is_in_the_route_table(tmp_path, world):
    assert RouteTable.model_validate(user_configs(load(tmp_path, world))["router"]).decision_log is None
    world["router"] = {"decision_log": {"kind": "file", "folder": "/var/log/etr", "num_files": 3}}
    rules = RouteTable.model_validate(user_configs(load(tmp_path, world))["router"]).decision_log
    assert rules is not None
    assert (rules.folder, rules.num_files, rules.text) == ("/var/log/etr", 3, False)
    world["router"] = {"decision_log": {"folder": "log"}}
    with pytest.raises(ConfigError, match=r"router\.decision_log\.folder: 'log' is not absolute"):
        load(tmp_path, world)
