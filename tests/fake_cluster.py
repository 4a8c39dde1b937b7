"""A cluster as a gateway sees it: applications to connect to, and models behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any

from deployments.gateway import MAX_PAUSE_S, Gateway
from router.model import Ask, Piece
from router.table import ModelEntry, RouteTable
from tests.fakes import JOB, STOP, FakeModel, Item, Script, turns

ASK = Ask("r", JOB.prompt)


class Cluster:
    """What a gateway connects to: models that play a script call by call, then answer for ever."""

    def __init__(self, **scripts: Iterable[Iterable[Item]]) -> None:
        self.connects: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.models = {
            app: FakeModel(then_answers(*scripts.get(app, []))) for app in ("meta", "chem", "law", "weather")
        }

    async def connect(self, app: str) -> FakeModel:
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
    gateway = Gateway(cluster.connect, max_body_bytes=1024)
    before = asyncio.all_tasks()
    try:
        await gateway.install(first)
        yield gateway
    finally:
        await gateway.close()
        assert asyncio.all_tasks() == before
        assert not any(model.num_open for model in cluster.models.values())


async def settle(for_s: float = 10 * MAX_PAUSE_S) -> None:
    """Let everything happen that happens within this (virtual) time."""
    await asyncio.sleep(for_s)


async def call(gateway: Gateway, app: str) -> list[Piece]:
    async with aclosing(gateway.models[app].stream(ASK)) as pieces:
        return [piece async for piece in pieces]
