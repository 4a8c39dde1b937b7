"""The API keys of a cluster.yaml: read when it is applied, and a change of the routers in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cluster.config.api_key_file import create_key, revoke_key
from cluster.config.api_keys import config_keys
from cluster.errors import ConfigError
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.plan import AppChange, Change, compare
from router.api.keys import digest_of
from router.table import RouteTable
from tests.cluster.serve.test_deploy_config import deployment, load, make_world
from tests.cluster.serve.test_plan import by_app, serve_runs

OURS, THEIRS = "our-own-key-of-the-environment", "another-key-of-the-environment"


@pytest.fixture
def world(tmp_path: Path) -> dict[str, Any]:
    return make_world(tmp_path, "roman", "morse") | {"http": {"keys_file": "keys.yaml"}}


@pytest.fixture
def billing(tmp_path: Path) -> str:
    limits = {"experts": ["roman"], "requests_per_minute": 60, "max_concurrent": 2}
    return create_key(tmp_path / "keys.yaml", "billing", limits)


def table_of(deploy: dict[str, Any]) -> RouteTable:
    return RouteTable.model_validate(deployment(deploy, "router")["user_config"])


def refused(folder: Path, world: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        build_serve_config(load(folder, world))
    return [problem.removeprefix(f"{folder / 'cluster.yaml'}: ") for problem in caught.value.problems]


def test_keys_of_the_file_and_of_the_environment_reach_the_routers_as_digests_alone(
    tmp_path: Path, world: dict[str, Any], billing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ETR_TEST_KEYS", f"{OURS},{THEIRS}")
    world["http"]["keys_env"] = "ETR_TEST_KEYS"
    deploy = build_serve_config(load(tmp_path, world))
    first, *others = table_of(deploy).keys
    assert first.model_dump(exclude_defaults=True) == {
        "name": "billing",
        "sha256": digest_of(billing),
        "experts": ("roman",),
        "requests_per_minute": 60,
        "max_concurrent": 2,
    }
    assert [key.sha256 for key in others] == [digest_of(OURS), digest_of(THEIRS)]
    assert not any(key in json.dumps(deploy) for key in (billing, OURS, THEIRS))


def test_without_a_keys_setting_the_routers_have_no_keys(tmp_path: Path):
    assert table_of(build_serve_config(load(tmp_path, make_world(tmp_path)))).keys == ()


def test_a_new_key_is_in_the_next_plan_and_changes_the_router_in_place(
    tmp_path: Path, world: dict[str, Any], billing: str
):
    config = load(tmp_path, world)
    running = serve_runs(build_serve_config(config))
    create_key(tmp_path / "keys.yaml", "support", {})
    plan = compare(build_serve_config(config), running)
    changes = {app: one for app, one in by_app(plan).items() if app != "meta"}
    assert changes == {
        "expert-morse": AppChange("expert-morse", Change.KEEP),
        "expert-roman": AppChange("expert-roman", Change.KEEP),
        "router": AppChange("router", Change.UPDATE, ("keys: changed",)),
    }
    assert table_of(plan.deploy).table_version == 2
    revoke_key(tmp_path / "keys.yaml", "billing")
    assert [key.name for key in config_keys(config)] == ["support"]


def test_a_cluster_is_not_opened_by_revoking_its_last_key(
    tmp_path: Path, world: dict[str, Any], billing: str
):
    config = load(tmp_path, world)
    revoke_key(tmp_path / "keys.yaml", "billing")
    with pytest.raises(ConfigError, match="without keys every client may send requests"):
        build_serve_config(config)


def test_a_key_cannot_permit_an_expert_that_does_not_exist(
    tmp_path: Path, world: dict[str, Any], billing: str
):
    del world["experts"]["roman"]
    assert refused(tmp_path, world) == [
        "http.keys_file: key 'billing' permits expert 'roman', which does not exist; "
        "revoke the key, correct its experts, or add the expert"
    ]


def test_a_key_with_limits_cannot_also_be_in_the_environment(
    tmp_path: Path, world: dict[str, Any], billing: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("ETR_TEST_KEYS", billing)
    world["http"]["keys_env"] = "ETR_TEST_KEYS"
    (problem,) = refused(tmp_path, world)
    assert problem == "http.keys_env: 'billing' and 'env:1' are the same key; remove one"
    assert billing not in problem


def test_a_variable_without_a_key_is_refused(
    tmp_path: Path, world: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ETR_TEST_KEYS", raising=False)
    world["http"] = {"keys_env": "ETR_TEST_KEYS"}
    with pytest.raises(ConfigError, match="ETR_TEST_KEYS: has no API key"):
        build_serve_config(load(tmp_path, world))
