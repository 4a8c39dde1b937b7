"""A cluster as a gateway sees it: applications to connect to, and models behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.adapter_replicas import AdapterReplicas
from deployments.gateway import Gateway
from deployments.replicas import ReplicaSet, probed_replica
from deployments.route import MAX_PAUSE_S
from router.errors import AdapterBroken, AdapterMissing, ModelOverloaded, ModelUnavailable
from router.model import Ask, Finish, Piece
from router.routes import State
from router.table import META, ModelEntry, RouteTable
from tests.fake_replicas import FakeReplicas
from tests.fakes import GONE, JOB, STOP, FakeModel, Item, Pause, Script, pause, turns

ASK = Ask("r", JOB.prompt)


@dataclass
class FakeApp(FakeModel):
    """An application, whose replicas play one script together, but for those that are `broken` or `hung`.

    A call goes to the first replica that is not suspect, and `reached` tells in turn which one had it. While
    none runs, a call starts one, which takes `start_s`, and waits for that. `without` says how a replica
    refuses calls of an adapter that it lacks.
    """

    start_s: float = 60.0
    num_starts: int = 0
    broken: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    without: dict[tuple[str, str | None], AdapterMissing] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    replicas: ReplicaSet = field(default_factory=lambda: ReplicaSet("fake"))
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.comes_up()

    async def stream(self, ask: Ask) -> AsyncGenerator[Piece, None]:
        self.replicas.began(ask.request_id)
        if not self.replicas.running:
            await self._start()
        known = self.replicas.for_calls_of(ask.adapter)
        replica = probed_replica(ask.request_id) or min(known.healthy or known.running)
        self.replicas.place(ask.request_id, replica)
        self.reached.append(replica)
        try:
            if replica in self.hung:
                await pause(Pause())
            self.replicas.accepted(ask.request_id)
            if replica in self.broken:
                raise GONE
            if (replica, ask.adapter) in self.without:
                raise self.without[replica, ask.adapter]
            async with aclosing(super().stream(ask)) as pieces:
                async for piece in pieces:
                    if piece.finish is Finish.CANCELLED:
                        self.replicas.suspect(replica, "cancelled")
                    else:
                        known.answered(replica)
                    yield piece
        except ModelOverloaded:
            raise
        except AdapterMissing as error:
            assert isinstance(known, AdapterReplicas)
            known.lacks(replica, is_broken=isinstance(error, AdapterBroken))
            raise
        except ModelUnavailable:
            self.replicas.suspect(replica, "gone")
            raise
        finally:
            self.replicas.ended(ask.request_id)

    def falls_asleep(self) -> None:
        self.replicas.now_running(())
        self._up = asyncio.Event()

    def comes_up(self, *replicas: str) -> None:
        self.replicas.now_running(replicas or ("r1",))
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


async def call(gateway: Gateway, app: str, ask: Ask = ASK) -> list[Piece]:
    async with aclosing(gateway.models[app].stream(ask)) as pieces:
        return [piece async for piece in pieces]
