"""Converging a cluster over Serve's REST API: against a server that speaks it, with a router behind it."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from typer.testing import CliRunner

from cluster.apply import apply
from cluster.cli import app as etr
from cluster.config import ClusterConfig
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
from cluster.events import AppEvent
from cluster.hosts import serving_url
from cluster.local import Head
from cluster.serve_client import ServeClient
from cluster.serve_config import build_serve_config
from cluster.status import ReplicaStatus, status
from tests.fake_serve import FakeServe
from tests.test_serve_config import load, make_token, make_world


@pytest.fixture
def served() -> Iterator[tuple[FakeServe, int]]:
    """The fake on a real port, in a thread, for a client that blocks."""
    fake = FakeServe()
    routes = [
        Route("/api/serve/applications/", fake.applications, methods=["GET", "PUT"]),
        Route("/healthz", fake.health),
        Route("/v1/models", fake.models),
        Route("/v1/chat/completions", fake.chat, methods=["POST"]),
    ]
    server = uvicorn.Server(uvicorn.Config(Starlette(routes=routes), log_level="error", lifespan="off"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()  # from here on a connection waits instead of being refused
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        yield fake, listener.getsockname()[1]
        server.should_exit = True
        thread.join(timeout=30)
        assert not thread.is_alive()


@pytest.fixture
def serve(served: tuple[FakeServe, int]) -> FakeServe:
    return served[0]


@pytest.fixture
def client(served: tuple[FakeServe, int]) -> Iterator[ServeClient]:
    with ServeClient(f"http://127.0.0.1:{served[1]}") as client:
        yield client


@pytest.fixture
def world(tmp_path: Path, served: tuple[FakeServe, int]) -> dict[str, Any]:
    world = make_world(tmp_path, "roman", "morse")
    world["http"] = {"port": served[1]}
    return world


@pytest.fixture
def config(tmp_path: Path, world: dict[str, Any]) -> ClusterConfig:
    return load(tmp_path, world)


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
    converge(config, client)
    assert {app: one["deployed_app_config"] for app, one in serve.apps.items()} == before
    assert [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")] == pids
    assert serve.epoch("router") == serve.epoch("meta") == 1


def test_a_changed_table_or_token_is_a_new_epoch_and_no_restart(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    pids = [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")]
    world["routing"] = {"max_handoffs": 2}
    converge(load(tmp_path, world), client)
    assert serve.epoch("router") == serve.epoch("meta") == 2
    make_token(tmp_path, "roman", seed=77)
    converge(load(tmp_path, world), client)
    assert serve.epoch("router") == serve.epoch("meta") == 3
    assert [serve.pid(app) for app in ("meta", "expert-roman", "expert-morse")] == pids


def test_changed_limits_alone_are_no_new_epoch(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    world["experts"]["roman"]["autoscaling"] = {"max_replicas": 2}
    converge(load(tmp_path, world), client)
    assert serve.epoch("router") == serve.epoch("meta") == 1


def test_an_expert_that_is_no_longer_named_is_gone(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    del world["experts"]["morse"]
    events = converge(load(tmp_path, world), client)
    assert sorted(serve.apps) == ["expert-roman", "meta", "router"]
    assert serve.epoch("router") == 2
    assert [e.status for e in events if e.app == "expert-morse"][-2:] == ["DELETING", "STOPPED"]


def test_an_expert_is_masked_everywhere_before_it_leaves(
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


def test_an_expert_that_still_writes_is_waited_for(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    converge(load(tmp_path, world), client)
    del world["experts"]["morse"]
    serve.lingering = {"expert-morse"}
    with pytest.raises(ApplyTimeout, match=r"expert-morse still writes after 1 s; it gets no new requests"):
        apply(load(tmp_path, world), client, timeout_s=1.0, poll_s=0.01)


def test_new_replicas_are_waited_for(
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


def test_a_second_apply_at_once_is_told_and_touches_nothing(
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


def test_whoever_is_overtaken_by_another_machine_is_told(
    tmp_path: Path, world: dict[str, Any], config: ClusterConfig, client: ServeClient
):
    theirs = copy.deepcopy(world)
    theirs["routing"] = {"max_handoffs": 1}
    deploy = build_serve_config(load(tmp_path, theirs), epoch=1)

    def overtake(event: AppEvent) -> None:
        client.put(deploy)

    with pytest.raises(
        ApplySuperseded, match=r"has changed this cluster meanwhile \(its table has epoch 1\)"
    ):
        apply(config, client, overtake, timeout_s=20, poll_s=0.01)


def test_a_failed_expert_is_named_with_its_root_error_and_the_others_serve(
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
def test_without_meta_or_router_nobody_is_waited_for(
    config: ClusterConfig, client: ServeClient, serve: FakeServe, app: str
):
    serve.failing = {app}
    with pytest.raises(DeployFailed, match=f"^{app}: "):
        apply(config, client, timeout_s=60, poll_s=0.01)
    assert serve.num_looks == 0


def test_what_does_not_come_up_in_time_is_named(config: ClusterConfig, client: ServeClient, serve: FakeServe):
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


def test_a_bad_token_is_told_before_anything_is_touched(
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
def test_clients_are_sent_where_they_can_reach_it(host: str, address: str, url: str):
    assert serving_url(host, 8000, address) == url


def test_a_failed_application_that_is_on_its_way_out_fails_nothing(
    tmp_path: Path, world: dict[str, Any], client: ServeClient, serve: FakeServe
):
    serve.failing = {"expert-roman"}
    with pytest.raises(DeployFailed):
        apply(load(tmp_path, world), client, timeout_s=20, poll_s=0.01)
    del world["experts"]["roman"]
    converge(load(tmp_path, world), client)
    assert "expert-roman" not in serve.apps


def test_nobody_there(config: ClusterConfig):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with (
            ServeClient(address) as client,
            pytest.raises(ServeUnreachable, match=f"no Ray dashboard answers at {address} .*`etr up`"),
        ):
            apply(config, client)


def test_a_token_is_asked_for_and_used(client: ServeClient, serve: FakeServe):
    serve.token = "secret"
    with pytest.raises(ServeRefused, match="wants a token; set RAY_AUTH_TOKEN"):
        client.details()
    with ServeClient(client.address, "secret") as allowed:
        assert allowed.details()["applications"] == {}


def test_serves_refusal_is_passed_on(client: ServeClient):
    with pytest.raises(ServeRefused, match=r"refused to PUT .*400"):
        client.put({"applications": 3})


def test_another_server_is_not_taken_for_a_dashboard(client: ServeClient):
    with (
        ServeClient(f"{client.address}/elsewhere") as other,
        pytest.raises(ServeRefused, match="is it Ray Serve?"),
    ):
        other.details()


def test_status_tells_replicas_and_the_reason(config: ClusterConfig, client: ServeClient, serve: FakeServe):
    serve.failing = {"expert-roman"}
    with pytest.raises(DeployFailed):
        apply(config, client, timeout_s=20, poll_s=0.01)
    by_name = {one.name: one for one in status(client)}
    assert list(by_name) == ["expert-morse", "expert-roman", "meta", "router"]
    assert by_name["meta"].replicas == (ReplicaStatus("RUNNING", serve.pid("meta"), "10.0.0.1"),)
    assert by_name["meta"].message == ""
    assert by_name["expert-roman"].status == "DEPLOY_FAILED"
    assert by_name["expert-roman"].message.startswith("experts.errors.ModelLoadError: models/roman")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `etr` with a state folder of its own."""
    monkeypatch.setenv("ETR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(etr, list(arguments))


def test_etr_apply_and_status(cli: Any, config: ClusterConfig, client: ServeClient):
    applied = cli("apply", str(config.source), "--address", client.address)
    assert applied.exit_code == 0, applied.output
    assert f"http://127.0.0.1:{config.http.port}/v1" in applied.stdout
    assert "expert-roman" in applied.stderr
    shown = cli("status", "--json", "--address", client.address)
    assert {one["name"]: one["status"] for one in json.loads(shown.stdout)}["meta"] == "RUNNING"
    assert "expert-morse" in cli("status", "--address", client.address).stdout


def test_etr_ask_streams_the_answer_and_then_who_wrote_it(cli: Any, client: ServeClient):
    plain = cli("ask", "14?", "--url", client.address)
    assert (plain.exit_code, plain.stdout) == (0, "Hello! XIV\n")
    traced = cli("ask", "14?", "--url", client.address, "--trace")
    assert [line.split() for line in traced.stdout.splitlines()] == [
        ["Hello!", "XIV"],
        [],
        ["meta", "Hello!"],
        ["roman", "XIV"],
    ]


@pytest.fixture
def keep_head(tmp_path: Path, client: ServeClient) -> Iterator[Callable[[str], None]]:
    """Keep the fake's address as that of a running head, under any name."""
    mark = str(tmp_path)
    command = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()", mark]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()

        def keep(name: str) -> None:
            path = tmp_path / "state" / name / "head.json"
            path.parent.mkdir(parents=True)
            path.write_text(json.dumps(asdict(Head(process.pid, client.address, mark, "token"))))

        yield keep
        process.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_etr_ask_finds_the_one_cluster_here_whatever_its_model_is_called(
    cli: Any, keep_head: Callable[[str], None], serve: FakeServe, client: ServeClient, host: str
):
    serve.name = "polymath"
    serve.http_options = {"host": host, "port": int(client.address.rpartition(":")[2])}
    keep_head("folder-name")
    asked = cli("ask", "14?")
    assert (asked.exit_code, asked.stdout) == (0, "Hello! XIV\n"), asked.output


def test_etr_ask_does_not_guess_among_several_clusters(cli: Any, keep_head: Callable[[str], None]):
    keep_head("one")
    keep_head("two")
    asked = cli("ask", "14?")
    assert asked.exit_code == 1
    assert (
        asked.stderr
        == "error: several clusters run here: one, two; choose one with --name (etr ask: --url)\n"
    )


def test_etr_down_of_a_name_never_started_makes_nothing(cli: Any, tmp_path: Path):
    assert "was not started here" in cli("down", "--name", "typo").stdout
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ask", "hi", "--url", "URL", "--model", "nobody"), "answers 404: model 'nobody' does not exist"),
        (("ask", "broken", "--url", "URL"), "the answer broke off without an end"),
        (("ask", "hi", "--url", "http://127.0.0.1:1"), "does not answer"),
        (("up", "nowhere.yaml"), "nowhere.yaml: no such file; name the cluster.yaml to use"),
        (("status",), "no head that etr started runs here; run `etr up` or give --address"),
        (("down",), "no head that etr started runs here"),
        (("apply", "CONFIG"), "no head of cluster 'generalist' runs here"),
        (
            ("up", "CONFIG"),
            "is taken or cannot be used (Address already in use); set http.port in cluster.yaml",
        ),
        (("learn", "CONFIG", "--data", "nowhere.jsonl"), "nowhere.jsonl"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, tuple) else "",
)
def test_etr_errors_are_one_line_and_an_exit_code(
    cli: Any, config: ClusterConfig, client: ServeClient, arguments: tuple[str, ...], expected: str
):
    given = [{"URL": client.address, "CONFIG": str(config.source)}.get(one, one) for one in arguments]
    result = cli(*given)
    assert result.exit_code == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_a_wrong_command_line_is_usage(cli: Any):
    assert cli("upp").exit_code == 2
    assert cli("learn").exit_code == 2
