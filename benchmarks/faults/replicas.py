"""The processes behind a served cluster, by Serve's own account: who runs, how large they are, kill one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

from cluster.serve_client import ServeClient
from cluster.status import RUNNING, AppStatus, status

MB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Replica:
    app: str
    pid: int
    node_id: str

    def send(self, number: signal.Signals) -> bool:
        """False when it is gone already."""
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
class Size:
    """What a process holds."""

    rss_mb: float
    num_fds: int


def running(client: ServeClient, app: str | None = None) -> list[Replica]:
    """Every replica that Serve calls running; of one application, if it is named."""
    return [
        Replica(one.name, replica.pid, replica.node_id or "")
        for one in status(client)
        for replica in one.replicas
        if replica.state == RUNNING and replica.pid and app in (None, one.name)
    ]


def is_settled(client: ServeClient) -> bool:
    """Whether every application has as many live replicas as it should, and no other."""
    return all(_is_settled(one) for one in status(client))


def pids(replicas: Iterable[Replica]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for one in replicas:
        found.setdefault(one.app, []).append(one.pid)
    return {app: sorted(numbers) for app, numbers in found.items()}


def sizes(replicas: Iterable[Replica]) -> dict[Replica, Size]:
    """Of those that live."""
    found = {}
    for one in replicas:
        try:
            process = psutil.Process(one.pid)
            found[one] = Size(process.memory_info().rss / MB, process.num_fds())
        except psutil.NoSuchProcess:
            continue
    return found


def growth(before: Mapping[Replica, Size], after: Mapping[Replica, Size]) -> dict[str, float]:
    """RSS afterwards as a multiple of RSS before, the worst replica of each application."""
    ratios: dict[str, float] = {}
    for one in before.keys() & after.keys():
        ratios[one.app] = max(ratios.get(one.app, 0.0), after[one].rss_mb / before[one].rss_mb)
    return dict(sorted(ratios.items()))


def _is_settled(one: AppStatus) -> bool:
    alive = [replica for replica in one.replicas if replica.state == RUNNING and replica.pid]
    return (
        one.status == RUNNING
        and len(one.replicas) == len(alive) == one.num_wanted
        and all(Replica(one.name, replica.pid or 0, "").lives for replica in alive)
    )
