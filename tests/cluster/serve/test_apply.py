"""Converging a cluster over Serve's REST API: against a server that speaks it, with a router behind it."""

from __future__ import annotations

import copy
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.responses import Response

from cluster.addresses import serving_url
from cluster.config.cluster_config import ClusterConfig
from cluster.errors import (
    ApplyBusy,
    ApplyError,
    ApplySuperseded,
    ApplyTimeout,
    ConfigError,
    DeployFailed,
    ServeRefused,
    ServeUnreachable,
)
from cluster.serve.app_status import AppEvent, ReplicaStatus, status
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.deploy_config import build_serve_config
from cluster.serve.serve_details import ServeDetails
from cluster.status.nodes import cluster_nodes
from tests.cluster.serve.test_deploy_config import load, make_token
from tests.fakes.models import served as served_app
from tests.fakes.serve_api import FakeServe


def converge(config: ClusterConfig, client: ServeClient, timeout_s: float = 20.0) -> list[AppEvent]:
    events: list[AppEvent] = []
    url = apply(config, client, events.append, timeout_s=timeout_s, poll_s=0.01)
    assert url == f"http://127.0.0.1:{config.http.port}"
    return events


def test_every_application_is_followed_until_it_answers(config: ClusterConfig, client: ServeClient):
    events = converge(config, client)
    for name in ("meta", "expert-roman", "expert-morse"):
        assert [e.status for e in events if e.app == name] == ["DEPLOYING", "RUNNING", "ANSWERS"]
    assert [e.status for e in events if e.app == "router"] == ["DEPLOYING", "RUNNING"]


def test_applying_the_same_again_changes_nothing(
    config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    converge(config, client)
    before = {app: one["deployed_app_config"] for app, one in serve.apps.items()}
    pids = [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")]
    assert converge(config, client) == []
    assert {app: one["deployed_app_config"] for app, one in serve.apps.items()} == before
    assert [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")] == pids
    assert serve.table_version("router") == serve.table_version("meta") == 1


def test_a_changed_table_or_token_gets_a_new_version_without_a_restart(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    pids = [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")]
    world["routing"] = {"max_handoffs": 2}
    converge(load(tmp_path, world), client)
    assert serve.table_version("router") == serve.table_version("meta") == 2
    make_token(tmp_path, "roman", seed=77)
    converge(load(tmp_path, world), client)
    assert serve.table_version("router") == serve.table_version("meta") == 3
    assert [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")] == pids


def test_changed_limits_alone_keep_the_table_version(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    world["experts"]["roman"]["autoscaling"] = {"max_replicas": 2}
    converge(load(tmp_path, world), client)
    assert serve.table_version("router") == serve.table_version("meta") == 1


def test_an_expert_that_the_file_does_not_name_is_removed(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    del world["experts"]["morse"]
    events = converge(load(tmp_path, world), client)
    assert sorted(serve.apps) == ["expert-roman", "meta", "router"]
    assert serve.table_version("router") == 2
    assert [e.status for e in events if e.app == "expert-morse"][-2:] == ["DELETING", "STOPPED"]


def test_an_expert_is_masked_in_every_router_before_it_is_removed(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    del world["experts"]["morse"]
    serve.stuck = {"router"}
    with pytest.raises(ApplyTimeout, match="router: DEPLOYING"):
        apply(load(tmp_path, world), client, timeout_s=0.5, poll_s=0.01)
    masked = {app["name"]: app for app in serve.puts[-1]["applications"]}
    assert set(masked["router"]["deployments"][0]["user_config"]["experts"]) == {"roman"}
    assert serve.apps["expert-morse"]["status"] == "RUNNING"
    serve.stuck = set()
    converge(load(tmp_path, world), client)  # goes on where the first one was interrupted
    assert "expert-morse" not in serve.apps


def test_apply_waits_for_a_removed_expert_that_still_writes(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    del world["experts"]["morse"]
    serve.lingering = {"expert-morse"}
    with pytest.raises(ApplyTimeout, match=r"not stopped after 1 s: expert-morse; they get no new requests"):
        apply(load(tmp_path, world), client, timeout_s=1.0, poll_s=0.01)


def test_apply_waits_for_new_replicas(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    (pid,) = (one.pid for one in replicas(client, "expert-roman"))
    world["experts"]["roman"]["autoscaling"] = {"min_replicas": 3, "max_replicas": 3}
    converge(load(tmp_path, world), client)
    states = [(one.state, one.pid == pid) for one in replicas(client, "expert-roman")]
    assert states == [("RUNNING", True), ("RUNNING", False), ("RUNNING", False)]


def replicas(client: ServeClient, app: str) -> tuple[ReplicaStatus, ...]:
    return next(one for one in status(client) if one.name == app).replicas


def test_a_second_apply_on_this_machine_is_refused_and_changes_nothing(
    tmp_path: Path, world: dict[str, Any], config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    told: list[ApplyError] = []

    def apply_too(event: AppEvent) -> None:
        with pytest.raises(
            ApplyBusy, match=rf"changing the cluster at .* \(process {os.getpid()}, sin"
        ) as busy:
            apply(config, client)
        told.append(busy.value)

    apply(config, client, apply_too, timeout_s=20, poll_s=0.01)
    assert told
    assert serve.num_puts == 1
    converge(config, client)  # and the lock is free again


def test_an_apply_that_another_machine_supersedes_fails(
    tmp_path: Path, world: dict[str, Any], config: ClusterConfig, client: ServeClient
):
    theirs = copy.deepcopy(world)
    theirs["routing"] = {"max_handoffs": 1}
    deploy = build_serve_config(load(tmp_path, theirs), table_version=1)

    def overtake(event: AppEvent) -> None:
        client.put(deploy)

    with pytest.raises(
        ApplySuperseded, match=r"has changed this cluster meanwhile \(its route table has version 1\)"
    ):
        apply(config, client, overtake, timeout_s=20, poll_s=0.01)


class Overtaken(ServeClient):
    """Another machine puts `deploy` right after the plan was made."""

    def __init__(self, address: str, deploy: dict[str, Any]) -> None:
        super().__init__(address)
        self._deploy = deploy
        self._num_reads = 0

    def details(self) -> ServeDetails:
        found = super().details()
        self._num_reads += 1
        if self._num_reads == 2:  # the first was for `http`, this one is what the plan is compared with
            self.put(self._deploy)
        return found


def test_a_plan_is_not_carried_out_if_the_cluster_has_changed_since(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    """Else it would remove an expert, unmasked, that another machine has just added."""
    ours = copy.deepcopy(world)
    del ours["experts"]["morse"]
    converge(load(tmp_path, ours), client)
    theirs = build_serve_config(load(tmp_path, world), table_version=2)
    ours["routing"] = {"max_handoffs": 2}
    config = load(tmp_path, ours)
    with (
        Overtaken(client.address, theirs) as overtaken,
        pytest.raises(ApplySuperseded, match="since this one was planned; run `etr plan`"),
    ):
        apply(config, overtaken, timeout_s=20, poll_s=0.01)
    assert serve.puts[-1] == theirs
    assert "expert-morse" in serve.apps
    converge(config, client)  # planned anew, it is masked first
    assert "expert-morse" not in serve.apps


def test_a_failed_expert_is_named_with_its_root_error_and_the_rest_serves(
    config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    serve.failing = {"expert-roman"}
    events: list[AppEvent] = []
    with pytest.raises(
        DeployFailed, match=r"^expert-roman: experts\.errors\.ModelLoadError: models/roman: no weights; copy"
    ):
        apply(config, client, events.append, timeout_s=20, poll_s=0.01)
    assert {e.app for e in events if e.status == "ANSWERS"} == {"meta", "expert-morse"}
    serve.failing = set()
    assert AppEvent("expert-roman", "ANSWERS") in converge(config, client)


@pytest.mark.parametrize("app", ["meta", "router"])
def test_without_meta_or_router_apply_does_not_wait_for_answers(
    config: ClusterConfig, client: ServeClient, serve: FakeServe, app: str
):
    serve.failing = {app}
    with pytest.raises(DeployFailed, match=f"^{app}: "):
        apply(config, client, timeout_s=60, poll_s=0.01)
    assert serve.num_polls == 0


def test_what_does_not_start_in_time_is_named(config: ClusterConfig, client: ServeClient, serve: FakeServe):
    serve.stuck = {"expert-morse"}
    with pytest.raises(ApplyTimeout, match=r"after 0\.5 s: expert-morse: DEPLOYING .*etr status"):
        apply(config, client, timeout_s=0.5, poll_s=0.01)


def test_serve_cannot_move_to_another_port(
    tmp_path: Path, world: dict[str, Any], config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    converge(config, client)
    world["http"]["port"] += 1
    with pytest.raises(
        ConfigError, match=r"http\.port: Serve already listens on \d+ and cannot move; run `etr"
    ):
        apply(load(tmp_path, world), client)
    assert serve.num_puts == 1


def test_a_bad_token_is_refused_before_anything_changes(
    tmp_path: Path, config: ClusterConfig, client: ServeClient, serve: FakeServe
):
    make_token(tmp_path, "roman", seed=1, meta="morse")
    with pytest.raises(ConfigError, match=r"experts\.roman\.token: .*`etr learn`"):
        apply(config, client)
    assert serve.num_puts == 0


@pytest.mark.parametrize("address", ["http://10.0.0.5:8265", "http://[fd00::5]:8265", "http://head:8265"])
def test_a_loopback_host_is_refused_on_another_machine(
    tmp_path: Path, world: dict[str, Any], config: ClusterConfig, address: str
):
    with (
        ServeClient(address) as client,
        pytest.raises(ConfigError, match=r"http\.host: 127\.0\.0\.1 on .* use 0\.0\.0\.0 or that node's"),
    ):
        apply(config, client)


@pytest.mark.parametrize(
    ("host", "address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8265", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://10.0.0.5:8265", "http://10.0.0.5:8000"),
        ("::", "http://[fd00::5]:8265", "http://[fd00::5]:8000"),
        ("::1", "http://127.0.0.1:8265", "http://[::1]:8000"),
    ],
)
def test_the_url_is_one_that_clients_can_reach(host: str, address: str, url: str):
    assert serving_url(host, 8000, address) == url


def test_a_failed_application_that_is_removed_is_not_an_error(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    serve.failing = {"expert-roman"}
    with pytest.raises(DeployFailed):
        apply(load(tmp_path, world), client, timeout_s=20, poll_s=0.01)
    del world["experts"]["roman"]
    converge(load(tmp_path, world), client)
    assert "expert-roman" not in serve.apps


def test_an_address_where_nothing_listens_is_named(config: ClusterConfig):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            ServeClient(address) as client,
            pytest.raises(ServeUnreachable, match=f"no Ray dashboard answers at {address} .*`etr up`"),
        ):
            apply(config, client)


def test_a_dashboard_token_is_required_and_sent(client: ServeClient, serve: FakeServe):
    serve.token = "secret"
    with pytest.raises(ServeRefused, match="requires a token; set RAY_AUTH_TOKEN"):
        client.details()
    with ServeClient(client.address, "secret") as allowed:
        assert allowed.details().applications == {}


def test_a_refusal_by_serve_is_reported(client: ServeClient):
    with pytest.raises(ServeRefused, match=r"refused to PUT .*400"):
        client.put({"applications": 3})


PAGES = ["<!doctype html><title>Log in</title>", "", "[]", "3", '{"message": "hello"}', '{"applications": 3}']


@pytest.mark.parametrize("body", PAGES)
def test_an_answer_that_is_not_from_ray_serve_is_an_error_with_a_remedy(body: str):
    async def page() -> Response:
        return Response(body)

    other = FastAPI()
    other.add_api_route("/{path:path}", page, methods=["GET"], response_model=None)
    with served_app(other) as address, ServeClient(address) as client:
        for ask in (client.details, lambda: cluster_nodes(client)):
            with pytest.raises(ServeRefused, match=rf"{address} answers GET /api/.*; correct --address"):
                ask()


def test_another_server_is_not_taken_for_a_dashboard(client: ServeClient):
    with (
        ServeClient(f"{client.address}/elsewhere") as other,
        pytest.raises(ServeRefused, match="check that Ray Serve answers there"),
    ):
        other.details()


def test_status_has_replicas_and_the_reason(config: ClusterConfig, client: ServeClient, serve: FakeServe):
    serve.failing = {"expert-roman"}
    with pytest.raises(DeployFailed):
        apply(config, client, timeout_s=20, poll_s=0.01)
    by_name = {one.name: one for one in status(client)}
    assert list(by_name) == ["expert-morse", "expert-roman", "meta", "router"]
    assert by_name["meta"].replicas == (ReplicaStatus("RUNNING", serve.pid("meta"), "10.0.0.1"),)
    assert by_name["meta"].message == ""
    assert by_name["expert-roman"].status == "DEPLOY_FAILED"
    assert by_name["expert-roman"].message.startswith("experts.errors.ModelLoadError: models/roman")
