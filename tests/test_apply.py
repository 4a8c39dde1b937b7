"""Converging a cluster over Serve's REST API: against a server that speaks it, with a router behind it."""

from __future__ import annotations

import copy
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from typer.testing import CliRunner

from cluster.apply import apply
from cluster.cli import app as etr
from cluster.config import ClusterConfig
from cluster.errors import ApplyTimeout, ConfigError, DeployFailed, ServeRefused, ServeUnreachable
from cluster.events import AppEvent
from cluster.serve_client import ServeClient
from cluster.status import ReplicaStatus, status
from tests.test_serve_config import load, make_token, make_world

TRACEBACK = (
    "The deployment failed to start 3 times in a row. Error:\n"
    "Traceback (most recent call last):\n"
    '  File "model.py", line 1, in load\n'
    "experts.errors.ModelLoadError: models/roman: no weights; copy them there\n"
)


class FakeServe:
    """Serve as its REST API shows it: PUT replaces everything, each GET is a look a little later.

    An application whose code (import path, arguments, actor options) changed gets a new process. `failing`
    ones end in DEPLOY_FAILED, `stuck` ones stay DEPLOYING. The router answers at the same port.
    """

    def __init__(self) -> None:
        self.apps: dict[str, dict[str, Any]] = {}
        self.http_options: dict[str, Any] | None = None
        self.failing: set[str] = set()
        self.stuck: set[str] = set()
        self.token: str | None = None
        self.num_puts = 0
        self.num_looks = 0
        self._pids = iter(range(1000, 2000))

    async def applications(self, request: Request) -> Response:
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return PlainTextResponse("no token", 401)
        if request.method == "PUT":
            return await self._put(request)
        for app in self.apps.values():
            self._advance(app)
        return JSONResponse(
            {"applications": copy.deepcopy(self.apps), "http_options": self.http_options, "proxies": {}}
        )

    async def health(self, request: Request) -> Response:
        router = self._table()
        if router is None or self.apps["meta"]["status"] != "RUNNING":
            return JSONResponse({"status": "unavailable"}, 503)
        self.num_looks += 1
        experts = {}
        for name, entry in router["experts"].items():
            ready = self.apps[entry["app"]]["status"] == "RUNNING" and self.num_looks > 1
            experts[name] = "ready" if ready else "masked"
        return JSONResponse({"status": "ok", "epoch": router["epoch"], "experts": experts})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": []})

    async def chat(self, request: Request) -> Response:
        body = await request.json()
        if body["model"] != "generalist":
            return JSONResponse({"error": {"message": f"model '{body['model']}' does not exist"}}, 404)
        parts = [("meta", "Hello! "), ("roman", "X"), ("roman", "IV")]
        trace = body.get("routing", {}).get("trace", False)
        events = [
            {"choices": [{"delta": {"content": text}}], **({"routing": {"model": who}} if trace else {})}
            for who, text in parts
        ]
        last = [] if "broken" in body["messages"][0]["content"] else ["[DONE]"]
        lines = [f"data: {text}\n\n" for text in [*map(json.dumps, events), *last]]
        return StreamingResponse(iter(lines), media_type="text/event-stream")

    def pid(self, app: str) -> int:
        return int(self.apps[app]["deployments"]["Model"]["replicas"][0]["pid"])

    def epoch(self, app: str) -> int:
        (deployment,) = self.apps[app]["deployed_app_config"]["deployments"]
        return int(deployment["user_config"]["epoch"])

    async def _put(self, request: Request) -> Response:
        config = await request.json()
        try:
            ServeDeploySchema.model_validate(copy.deepcopy(config))
        except ValidationError as error:
            return PlainTextResponse(repr(error), 400)
        self.num_puts += 1
        self.num_looks = 0
        self.http_options = self.http_options or config["http_options"]
        self.apps = {app["name"]: self._deploy(app) for app in config["applications"]}
        return Response()

    def _deploy(self, config: dict[str, Any]) -> dict[str, Any]:
        old = self.apps.get(config["name"])
        same = old and self._code(old["deployed_app_config"]) == self._code(config)
        deployments = {one["name"]: self._deployment(one) for one in config["deployments"]}
        if old and same:
            for name, deployment in deployments.items():
                deployment["replicas"] = old["deployments"][name]["replicas"]
        return {
            "status": "DEPLOYING",
            "message": "",
            "deployments": deployments,
            "deployed_app_config": config,
            "num_looks": 0,
        }

    def _deployment(self, config: dict[str, Any]) -> dict[str, Any]:
        replica = {"state": "STARTING"}  # no process yet
        wanted = config["autoscaling_config"]["min_replicas"]
        return {"message": "", "target_num_replicas": wanted, "replicas": [replica] * wanted}

    def _code(self, config: dict[str, Any]) -> Any:
        return config["import_path"], config["args"], [d["ray_actor_options"] for d in config["deployments"]]

    def _advance(self, app: dict[str, Any]) -> None:
        name = app["deployed_app_config"]["name"]
        app["num_looks"] += 1
        if app["num_looks"] < 2 or name in self.stuck:
            return
        app["status"] = "DEPLOY_FAILED" if name in self.failing else "RUNNING"
        for deployment in app["deployments"].values():
            if name in self.failing:
                deployment["message"] = TRACEBACK
                app["message"] = "Failed to update the deployments ['Model']."
            else:
                deployment["replicas"] = [
                    {"pid": next(self._pids), "node_ip": "10.0.0.1", **one, "state": "RUNNING"}
                    for one in deployment["replicas"]
                ]

    def _table(self) -> dict[str, Any] | None:
        router = self.apps.get("router")
        if router is None or router["status"] != "RUNNING":
            return None
        table: dict[str, Any] = router["deployed_app_config"]["deployments"][0]["user_config"]
        return table


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
    converge(load(tmp_path, world), client)
    assert sorted(serve.apps) == ["expert-roman", "meta", "router"]
    assert serve.epoch("router") == 2


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
