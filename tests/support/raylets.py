"""Several Ray nodes on this machine: a head that offers nothing, and workers to be killed."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from cluster.local import head as local_head
from cluster.local.head import Head, start_head, stop_head
from cluster.local.process_session import Session
from cluster.polling import until
from cluster.serve.serve_details import RUNNING, ReplicaDetails, ServeDetails

# Small, because a node's store is backed by the machine's shared memory, and nothing large passes through.
OBJECT_STORE_BYTES = 100_000_000
JOIN_TIMEOUT_S = 60.0
# As `cluster.local` starts Ray: with the token, on any free ports, and importing from nowhere but the venv.
RAY = (sys.executable, "-P", "-m", "ray.scripts.scripts")
# A dead node is noticed after three missed beats of 1 s; Ray's own defaults take fifteen seconds.
QUICK = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Offer:
    """What a worker node says it has; Ray does not look whether it is there."""

    num_cpus: int = 1
    num_gpus: int = 0
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Node:
    """A worker node. `id` is Ray's, as Serve's details name it."""

    id: str
    session: Session


@dataclass
class Raylets:
    """The head and the workers that live; every worker has a session, a folder and ports of its own."""

    head: Head
    folder: Path
    env: Mapping[str, str]
    nodes: dict[str, Node] = field(default_factory=dict)
    _started: list[Session] = field(default_factory=list)

    def add(self, **offers: Offer) -> None:
        """Start workers by name, all at once, and wait until the cluster counts them in."""
        starting = {name: self._start(name, offer) for name, offer in offers.items()}
        for name, session in starting.items():
            self.nodes[name] = Node(self._joined(session), session)

    def kill(self, name: str) -> Node:
        """As when a machine loses power: every process of the node at once."""
        node = self.nodes.pop(name)
        for process in node.session.processes():
            process.suspend()  # or the raylet would tell the head of the workers that die before it
        for process in node.session.processes():
            process.kill()
        psutil.wait_procs(node.session.processes(), timeout=10)
        return node

    def end(self) -> None:
        """End every worker that was ever started here."""
        for session in self._started:
            session.end(term_timeout_s=5.0)
            shutil.rmtree(session.mark, ignore_errors=True)

    def _start(self, name: str, offer: Offer) -> Session:
        temp_dir = tempfile.mkdtemp(prefix="etr-node-", dir="/tmp")  # short, for the paths of sockets
        options: dict[str, object] = {
            "--address": self._gcs_address(),
            "--node-name": Path(temp_dir).name,  # no other node ever had it; Serve names a proxy's log by it
            "--temp-dir": temp_dir,
            "--num-cpus": offer.num_cpus,
            "--num-gpus": offer.num_gpus,
            "--resources": json.dumps(offer.resources),
            "--labels": ",".join(f"{key}={value}" for key, value in offer.labels.items()),
            "--object-store-memory": OBJECT_STORE_BYTES,
            "--min-worker-port": 0,  # any free ones: the default range would meet another node's
            "--max-worker-port": 0,
        }
        flags = [str(part) for option in options.items() for part in option]
        command = ["/usr/bin/env", "--chdir=/", *RAY, "start", "--block", "--disable-usage-stats", *flags]
        session = Session.start(command, self._environment(), self.folder / f"{name}.log", mark=temp_dir)
        self._started.append(session)
        return session

    def _gcs_address(self) -> str:
        return Path(self.head.temp_dir, "ray_current_cluster").read_text(encoding="utf-8").strip()

    def _environment(self) -> dict[str, str]:
        """What a node knows that has only the package installed."""
        env = local_head._environment(self.head.temp_dir, self.env)
        return {name: value for name, value in env.items() if name not in ("PYTHONPATH", "PWD")}

    def _joined(self, session: Session) -> str:
        """Ray's id of the node, once it has one."""
        name = Path(session.mark).name
        found: list[str] = []

        def has_joined() -> bool:
            assert session.runs(), "the node ended while starting; see its log"
            found.extend(node["node_id"] for node in self._alive() if node["node_name"] == name)
            return bool(found)

        assert until(has_joined, JOIN_TIMEOUT_S), f"{session.mark} has not joined after {JOIN_TIMEOUT_S:g} s"
        return found[0]

    def _alive(self) -> list[dict[str, Any]]:
        headers = {"Authorization": f"Bearer {self.head.auth_token}"}
        url = f"{self.head.dashboard_url}/api/v0/nodes?detail=1"
        answer = httpx.get(url, headers=headers, trust_env=False, timeout=30).raise_for_status().json()
        nodes: list[dict[str, Any]] = answer["data"]["result"]["result"]
        return [node for node in nodes if node["state"] == "ALIVE"]


@contextmanager
def raylets(folder: Path, env: Mapping[str, str] | None = None) -> Iterator[Raylets]:
    """A head without CPUs to offer; workers are added by the caller. All of it is gone afterwards."""
    env = QUICK | dict(env or {})
    cluster = Raylets(start_head(folder / "state", num_cpus=0, env=env), folder, env)
    try:
        yield cluster
    finally:
        try:
            cluster.end()
        finally:
            stop_head(folder / "state")


def node_ids(details: ServeDetails, app: str) -> set[str]:
    """The nodes on which the replicas of an application run, as Serve reports them."""
    return {replica.node_id for replica in _running(details, app) if replica.node_id}


def pids(details: ServeDetails, app: str) -> set[int]:
    return {replica.pid for replica in _running(details, app) if replica.pid}


def _running(details: ServeDetails, app: str) -> list[ReplicaDetails]:
    found = details.applications.get(app)
    return [replica for replica in found.replicas if replica.state == RUNNING] if found else []
