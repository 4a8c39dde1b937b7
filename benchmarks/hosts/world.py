"""A cluster of five hosts that share no folder, and a namespace for its clients.

    head    Ray's control plane; serves nothing
    front   a router; clients send to its HAProxy
    mid     a router, and a replica of the meta and of the expert
    meta    a replica of the meta
    expert  a replica of the expert

Every answer takes the better part of a second, so a fault meets answers in their middle.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import Any, TypeVar

import yaml

from benchmarks.chaos.replies import Known, ask_all, client
from benchmarks.hosts.host import MODELS, Host, host
from benchmarks.hosts.installation import install
from benchmarks.hosts.node import ADDRESSES, DASHBOARD_PORT, EXPERT, environment, ray_command
from benchmarks.hosts.switch import Link, Switch, inside, switch
from benchmarks.hot_change.answers import Question
from benchmarks.models import save_random_model, save_winning_token
from cluster.errors import ServeRefused, ServeUnreachable
from cluster.polling import until
from cluster.ray_env import RAY_WORKER_ENV
from cluster.serve.app_status import status
from cluster.serve.client import ServeClient
from cluster.serve.serve_details import RUNNING
from cluster.status.nodes import cluster_nodes

NAME = "generalist"
PORT = 8000
CLIENTS, CLIENTS_ADDRESS = "clients", "10.77.0.2"
DEADLINES = {"queue_s": 30.0, "first_token_s": 8.0, "gap_s": 5.0, "total_s": 60.0, "drain_s": 10.0}
NUM_QUESTIONS, MAX_TOKENS = 6, 100
START_TIMEOUT_S = 240.0

Result = TypeVar("Result")


@dataclass
class World:
    """`known`: the answer to each question without faults."""

    switch: Switch
    hosts: Mapping[str, Host]
    env: Mapping[str, str]
    installation: Path
    serve: ServeClient
    known: Known

    @property
    def questions(self) -> list[Question]:
        return list(self.known)

    def url(self, name: str = "front") -> str:
        return f"http://{ADDRESSES[name]}:{PORT}"

    def from_clients(self, function: Callable[[], Result]) -> Result:
        """Call a function whose sockets belong to the clients."""
        return inside(self.switch.namespace(CLIENTS), function)

    def etr(self, *arguments: str) -> str:
        """Run the installed command on the head."""
        return self.hosts["head"].run(f"{self.installation}/bin/etr", *arguments, env=self.env)

    def apply(self) -> None:
        self.etr(
            "apply", str(MODELS / "cluster.yaml"), "--address", f"http://{ADDRESSES['head']}:{DASHBOARD_PORT}"
        )

    def is_as_applied(self) -> bool:
        """Whether every node lives, and every application runs with exactly its replicas."""
        try:
            apps, nodes = status(self.serve), cluster_nodes(self.serve)
        except (ServeUnreachable, ServeRefused):
            return False
        return {node.ip for node in nodes} == set(ADDRESSES.values()) and all(
            app.status == RUNNING
            and len(app.replicas) == app.num_wanted
            and all(replica.state == RUNNING for replica in app.replicas)
            for app in apps
        )


def link_of(source: str, target: str) -> Link:
    """Between hosts of a world, or from or to its clients."""
    addresses = {**ADDRESSES, CLIENTS: CLIENTS_ADDRESS}
    return Link(addresses[source], addresses[target])


@contextmanager
def hosts_world(*, own_clocks: bool = False, max_table_age_s: float = 600.0) -> Iterator[World]:
    """Start the cluster and apply its cluster.yaml. Nothing of it is left at the end.

    Raises RuntimeError, with the last lines of the logs.
    """
    folder = Path(tempfile.mkdtemp(prefix="etr-hosts-"))
    try:
        installation = install(folder)
        _write_world(folder / "world", max_table_age_s)
        with switch() as network, ExitStack() as hosts:
            env = environment(installation, own_clocks=own_clocks)
            network.plug(CLIENTS, CLIENTS_ADDRESS)
            started = {
                name: hosts.enter_context(
                    host(
                        network,
                        name,
                        address,
                        ray_command(installation, name),
                        env if name == "head" else {**env, **RAY_WORKER_ENV},
                        installation,
                        folder / "world",
                        folder / f"{name}.log",
                    )
                )
                for name, address in ADDRESSES.items()
            }
            dashboard = f"http://{ADDRESSES['head']}:{DASHBOARD_PORT}"
            serve = hosts.enter_context(ServeClient(dashboard, env["RAY_AUTH_TOKEN"]))
            world = World(network, started, env, installation, serve, {})
            try:
                _serve(world)
            except RuntimeError as error:
                raise RuntimeError(f"{error}\n{_logs(folder)}") from error
            yield world
    finally:
        rmtree(folder, ignore_errors=True)


def _serve(world: World) -> None:
    if not world.from_clients(lambda: until(lambda: _have_joined(world), START_TIMEOUT_S, 0.5)):
        raise RuntimeError(f"the nodes have not joined within {START_TIMEOUT_S:g} s")
    world.apply()
    world.known = world.from_clients(lambda: _known_answers(world))


def _have_joined(world: World) -> bool:
    try:
        return len(cluster_nodes(world.serve)) == len(ADDRESSES)
    except (ServeUnreachable, ServeRefused):  # the head is still starting
        return False


def _known_answers(world: World) -> Known:
    async def asked() -> Known:
        async with client(world.url()) as http:
            replies = await ask_all(http, _questions(), 1)
        if failed := [reply.describe() for reply in replies if reply.answer.error]:
            raise RuntimeError(f"without faults: {failed}")
        return {reply.answer.question: {reply.answer.text} for reply in replies}

    return asyncio.run(asked())


def _questions() -> list[Question]:
    """The meta hands over each question for the whole cluster, and answers itself if it is called by name."""
    return [
        Question.routed(f"question {i}?", topic, model, MAX_TOKENS)
        for i in range(NUM_QUESTIONS)
        for topic, model in ((EXPERT, NAME), (None, f"{NAME}/meta"))
    ]


def _write_world(folder: Path, max_table_age_s: float) -> None:
    for seed, name in enumerate(("meta", EXPERT)):
        save_random_model(folder / "models" / name, hidden_size=64, num_layers=2, seed=seed)
    save_winning_token(folder / "models" / "meta", EXPERT, folder / "tokens")
    engine = {"dtype": "float32", "num_threads": 1, "max_streams": 16, "max_model_len": 512}
    text = {
        "name": NAME,
        "meta": {"model": {"path": "models/meta"}, "engine": engine, **_two_replicas("meta")},
        "experts": {
            EXPERT: {
                "model": {"path": f"models/{EXPERT}"},
                "token": f"tokens/{EXPERT}.safetensors",
                "on_unavailable": "wait",
                "engine": engine,
                **_two_replicas(EXPERT),
            }
        },
        "routing": {"deadlines": DEADLINES},
        "router": {"max_table_age_s": max_table_age_s, **_two_replicas("router")},
        "http": {"host": "0.0.0.0", "port": PORT},
    }
    folder.joinpath("cluster.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(text))), encoding="utf-8")


def _two_replicas(resource: str) -> dict[str, Any]:
    return {
        "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        "resources": {"num_cpus": 0.1, "custom": {resource: 1}},
    }


def _logs(folder: Path) -> str:
    return "\n".join(
        f"{path.name}: {line}"
        for path in sorted(folder.glob("*.log"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
    )
