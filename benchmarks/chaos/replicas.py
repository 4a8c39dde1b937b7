"""The processes of a served cluster, as Serve reports them: their sizes, and signals to them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from cluster.serve.app_status import AppStatus, status
from cluster.serve.client import ServeClient
from cluster.serve.serve_details import RUNNING

MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Replica:
    app: str
    pid: int
    node_id: str

    def send(self, number: signal.Signals) -> bool:
        """Returns False if the process is gone already."""
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    @property
    def lives(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


@dataclass(frozen=True, slots=True)
class ProcessSize:
    rss_mb: float
    num_fds: int


def running(client: ServeClient, app: str | None = None) -> list[Replica]:
    """Every replica that Serve reports as running, of all applications or of `app`."""
    return [
        Replica(served.name, replica.pid, replica.node_id or "")
        for served in status(client)
        for replica in served.replicas
        if replica.state == RUNNING and replica.pid and app in (None, served.name)
    ]


def is_settled(client: ServeClient) -> bool:
    """Whether every application has exactly the wanted number of replicas, all alive."""
    return all(_is_settled(app) for app in status(client))


def pids(replicas: Iterable[Replica]) -> dict[str, list[int]]:
    by_app: dict[str, list[int]] = {}
    for replica in replicas:
        by_app.setdefault(replica.app, []).append(replica.pid)
    return {app: sorted(pids) for app, pids in by_app.items()}


def sizes(replicas: Iterable[Replica]) -> dict[Replica, ProcessSize]:
    """The sizes of the replicas that are alive."""
    found = {}
    for replica in replicas:
        try:
            process = psutil.Process(replica.pid)
            found[replica] = ProcessSize(process.memory_info().rss / MB, process.num_fds())
        except psutil.NoSuchProcess:
            continue
    return found


def growth(before: Mapping[Replica, ProcessSize], after: Mapping[Replica, ProcessSize]) -> dict[str, float]:
    """RSS afterwards relative to RSS before, of the worst replica of each application."""
    ratios: dict[str, float] = {}
    for replica in before.keys() & after.keys():
        ratio = after[replica].rss_mb / before[replica].rss_mb
        ratios[replica.app] = max(ratios.get(replica.app, 0.0), ratio)
    return dict(sorted(ratios.items()))


def _is_settled(app: AppStatus) -> bool:
    running = [replica for replica in app.replicas if replica.state == RUNNING and replica.pid]
    return (
        app.status == RUNNING
        and len(app.replicas) == len(running) == app.num_wanted
        and all(Replica(app.name, replica.pid or 0, "").lives for replica in running)
    )
