"""Changing the experts of a pool: in place, the leaving ones masked first, and a broken one named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cluster.errors import DeployFailed
from cluster.serve.client import ServeClient
from tests.cluster.serve.test_apply import converge
from tests.cluster.serve.test_deploy_config import deployment, load
from tests.fakes.serve_api import FakeServe
from tests.support.pool_world import make_pool_world


@pytest.fixture
def world(tmp_path: Path, fake_serve: tuple[FakeServe, int]) -> dict[str, Any]:
    return make_pool_world(tmp_path, "law", "chem") | {"http": {"port": fake_serve[1]}}


def test_experts_of_a_pool_come_and_go_without_a_restart(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    chem = world["experts"].pop("chem")
    converge(load(tmp_path, world), client)
    pids = [serve.pid(app) for app in ("meta", "pool-base", "expert-roman")]
    world["experts"]["chem"] = chem
    serve.slow_adapters["chem"] = 5
    events = converge(load(tmp_path, world), client)
    assert ("pool-base/chem", "ANSWERS") in [(event.app, event.status) for event in events]
    assert serve.slow_adapters["chem"] == 0
    del world["experts"]["law"]
    converge(load(tmp_path, world), client)
    before, after = serve.puts[-2:]
    assert set(deployment(before, "pool-base")["user_config"]["adapters"]) == {"chem", "law"}
    assert set(deployment(before, "router")["user_config"]["experts"]) == {"chem", "roman"}
    assert set(deployment(after, "pool-base")["user_config"]["adapters"]) == {"chem"}
    assert [serve.pid(app) for app in ("meta", "pool-base", "expert-roman")] == pids


@pytest.mark.parametrize(
    ("key", "why"), [(None, "'law' cannot be loaded: no such target"), ("k", "its adapter cannot be loaded")]
)
def test_an_adapter_that_cannot_be_loaded_is_named_with_its_reason(
    tmp_path: Path,
    world: dict[str, Any],
    client: ServeClient,
    serve: FakeServe,
    key: str | None,
    why: str,
):
    serve.broken_adapters["law"] = "adapter 'law' cannot be loaded: no such target"
    serve.key = key
    with pytest.raises(DeployFailed, match=f"pool-base/law: .*{why}"):
        converge(load(tmp_path, world), client)
    serve.broken_adapters.clear()
    converge(load(tmp_path, world), client)


def test_an_update_of_an_adapter_that_fails_is_named_though_the_old_one_serves(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe, monkeypatch: Any
):
    monkeypatch.setenv("ETR_API_KEY", "k")
    serve.key = "k"
    serve.broken_adapters["law"] = "cut off"
    serve.still_serving.add("law")
    with pytest.raises(DeployFailed, match="pool-base/law: cut off"):
        converge(load(tmp_path, world), client)
