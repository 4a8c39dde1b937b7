"""A cluster as a gateway sees it: applications to connect to, and models behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.gateway import Gateway
from deployments.route import MAX_PAUSE_S
from router.model import Ask, Piece
from router.routes import State
from router.table import META, ModelEntry, RouteTable
from tests.fake_replicas import FakeReplicas
from tests.fakes import JOB, STOP, FakeModel, Item, Script, turns

ASK = Ask("r", JOB.prompt)


@dataclass
class FakeApp(FakeModel):
    """An application. While it does not run, a call starts it, which takes `start_s`, and waits for that."""

    is_running: bool = True
    start_s: float = 60.0
    num_starts: int = 0
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        if not self.is_running:
            await self._start()
        async with aclosing(super().stream(ask)) as pieces:
            async for piece in pieces:
                yield piece

    def falls_asleep(self) -> None:
        self.is_running = False
        self._up = asyncio.Event()

    def comes_up(self) -> None:
        self.is_running = True
        self._up.set()

    async def _start(self) -> None:
        self.num_starts += 1
        asyncio.get_running_loop().call_later(self.start_s, self.comes_up)
        await self._up.wait()


class Cluster:
    """What a gateway connects to: models that play a script call by call, then answer for ever."""

    def __init__(self, **scripts: Iterable[Iterable[Item]]) -> None:
        self.connects: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.models = {
            app: FakeApp(then_answers(*scripts.get(app, []))) for app in ("meta", "chem", "law", "weather")
        }

    async def connect(self, app: str) -> FakeApp:
        self.connects.append(app)
        await asyncio.sleep(0)  # as a real one: others run meanwhile
        if self.failures.get(app):
            raise self.failures[app].pop(0)
        return self.models[app]

    def num_calls(self, app: str) -> int:
        return len(self.models[app].asks)


def then_answers(*scripts: Iterable[Item]) -> Script:
    scripted, num_left = turns(*scripts), iter(range(len(list(scripts))))
    return lambda ask: scripted(ask) if next(num_left, None) is not None else [STOP]


def table(*experts: str, **changes: Any) -> RouteTable:
    entries = {name: ModelEntry(app=name) for name in experts}
    return RouteTable(
        **{"epoch": 1, "name": "g", "meta": ModelEntry(app="meta"), "experts": entries} | changes
    )


@asynccontextmanager
async def gateway_to(cluster: Cluster, first: RouteTable) -> AsyncIterator[Gateway]:
    gateway = Gateway(cluster.connect, 1024, FakeReplicas())
    before = asyncio.all_tasks()
    try:
        await gateway.install(first)
        yield gateway
    finally:
        await gateway.close()
        assert asyncio.all_tasks() == before
        assert not any(model.num_open for model in cluster.models.values())


def opened(gateway: Gateway) -> set[str]:
    names = (META, *gateway.table.experts)
    return {name for name in names if gateway.state(name) is State.READY}


async def settle(for_s: float = 10 * MAX_PAUSE_S) -> None:
    """Let everything happen that happens within this (virtual) time."""
    await asyncio.sleep(for_s)


async def call(gateway: Gateway, app: str) -> list[Piece]:
    async with aclosing(gateway.models[app].stream(ASK)) as pieces:
        return [piece async for piece in pieces]
