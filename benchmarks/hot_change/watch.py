"""What Serve and the router report while the cluster changes: load times, processes, the meta's decision."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.hot_change.answers import Question
from cluster.serve.app_status import AppStatus, status
from cluster.serve.client import ServeClient
from cluster.serve.serve_details import RUNNING

POLL_S = 0.2


@dataclass
class LoadTimes:
    """When the first replica of each application started and ran, in seconds of time.monotonic()."""

    started_s: dict[str, float] = field(default_factory=dict)
    running_s: dict[str, float] = field(default_factory=dict)

    def record(self, apps: list[AppStatus]) -> None:
        now_s = time.monotonic()
        for app in apps:
            for replica in app.replicas:
                self.started_s.setdefault(app.name, now_s)
                if replica.state == RUNNING:
                    self.running_s.setdefault(app.name, now_s)

    def load_s(self, app: str) -> float:
        """How long the replica took to start: process, imports and weights."""
        return self.running_s[app] - self.started_s[app]


@asynccontextmanager
async def loading(client: ServeClient) -> AsyncIterator[LoadTimes]:
    """Watches every application while the block runs."""
    times = LoadTimes()

    async def watch() -> None:
        while True:
            times.record(await asyncio.to_thread(status, client))
            await asyncio.sleep(POLL_S)

    watching = asyncio.create_task(watch())
    try:
        yield times
        times.record(await asyncio.to_thread(status, client))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def pids(client: ServeClient) -> dict[str, frozenset[int]]:
    """The processes of every application's running replicas."""
    return {
        app.name: frozenset(
            replica.pid for replica in app.replicas if replica.pid and replica.state == RUNNING
        )
        for app in status(client)
    }


async def probabilities(http: httpx.AsyncClient, question: Question) -> Mapping[str, float]:
    """The meta's probability of each expert. It changes with every token of its table."""
    body = {"messages": question.body["messages"]}
    rows = (await http.post("/v1/route", json=body)).raise_for_status().json()["experts"]
    return {row["name"]: row["probability"] for row in rows}
