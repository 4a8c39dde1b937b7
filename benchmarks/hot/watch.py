"""What Serve and the router say while the cluster changes: who loads, who runs, how the meta decides."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import httpx

from benchmarks.hot.answers import Question
from cluster.serve_client import ServeClient
from cluster.status import RUNNING, AppStatus, status

POLL_S = 0.2


@dataclass
class Loading:
    """When each application's first replica was seen to start and to run; seconds of time.monotonic()."""

    started_s: dict[str, float] = field(default_factory=dict)
    running_s: dict[str, float] = field(default_factory=dict)

    def see(self, apps: list[AppStatus]) -> None:
        now_s = time.monotonic()
        for app in apps:
            for replica in app.replicas:
                self.started_s.setdefault(app.name, now_s)
                if replica.state == RUNNING:
                    self.running_s.setdefault(app.name, now_s)

    def load_s(self, app: str) -> float:
        """What Serve calls a replica's start: its process, imports, weights, until it runs."""
        return self.running_s[app] - self.started_s[app]


@asynccontextmanager
async def loading(client: ServeClient) -> AsyncIterator[Loading]:
    """Watches every application while the block runs."""
    seen = Loading()

    async def watch() -> None:
        while True:
            seen.see(await asyncio.to_thread(status, client))
            await asyncio.sleep(POLL_S)

    watching = asyncio.create_task(watch())
    try:
        yield seen
        seen.see(await asyncio.to_thread(status, client))
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def pids(client: ServeClient) -> dict[str, frozenset[int]]:
    """The processes of every application's running replicas."""
    return {
        app.name: frozenset(one.pid for one in app.replicas if one.pid and one.state == RUNNING)
        for app in status(client)
    }


async def probabilities(http: httpx.AsyncClient, question: Question) -> Mapping[str, float]:
    """How the meta would decide, by expert: changes with every token of its table."""
    asked = {"messages": question.body["messages"]}
    rows = (await http.post("/v1/route", json=asked)).raise_for_status().json()["experts"]
    return {row["name"]: row["probability"] for row in rows}
