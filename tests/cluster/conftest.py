"""A server that speaks Serve's REST API with a router behind it, and the commands that work on it."""

from __future__ import annotations

import json
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

from cluster.cli.main import app as etr
from cluster.config.cluster_config import ClusterConfig
from cluster.local.head import Head
from cluster.serve.client import ServeClient
from tests.cluster.serve.test_deploy_config import load, make_world
from tests.fakes.serve_api import FakeServe


@pytest.fixture
def fake_serve() -> Iterator[tuple[FakeServe, int]]:
    """The fake on a real port, in a thread, for a client that blocks."""
    fake = FakeServe()
    routes = [
        Route("/api/serve/applications/", fake.applications, methods=["GET", "PUT"]),
        Route("/healthz", fake.health),
        Route("/v1/models", fake.models),
        Route("/stats", fake.stats),
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
def serve(fake_serve: tuple[FakeServe, int]) -> FakeServe:
    return fake_serve[0]


@pytest.fixture
def client(fake_serve: tuple[FakeServe, int]) -> Iterator[ServeClient]:
    with ServeClient(f"http://127.0.0.1:{fake_serve[1]}") as client:
        yield client


@pytest.fixture
def world(tmp_path: Path, fake_serve: tuple[FakeServe, int]) -> dict[str, Any]:
    world = make_world(tmp_path, "roman", "morse")
    world["http"] = {"port": fake_serve[1]}
    return world


@pytest.fixture
def config(tmp_path: Path, world: dict[str, Any]) -> ClusterConfig:
    return load(tmp_path, world)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run `etr` with a state folder of its own."""
    monkeypatch.setenv("ETR_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("COLUMNS", "200")
    return lambda *arguments: CliRunner().invoke(etr, list(arguments))


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
