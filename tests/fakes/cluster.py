"""A cluster as a gateway sees it: applications to connect to, and models behind them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from deployments.model_gateway import ModelGateway
from deployments.model_route import MAX_PAUSE_S
from deployments.remote import Deployed
from deployments.replicas.probe_ids import is_probe, probed_replica
from deployments.replicas.replica_set import ReplicaSet
from router.availability import ModelState
from router.errors import AdapterMissing, ModelOverloaded, ModelUnavailable, RouterError
from router.model_port import ModelChunk, ModelRequest
from router.table import META, ModelEntry, RouteTable
from tests.fakes.models import GENERATION, GONE, STOP, FakeModel, Item, Pause, Script, pause, turns
from tests.fakes.replicas import FakeBroadcast

REQUEST = ModelRequest("r", GENERATION.prompt)


@dataclass
class FakeApp(FakeModel):
    """An application, whose replicas play one script together, except those that are `broken` or `hung`.

    `choose` picks the replica of a call from those that are healthy; `reached` lists which one had each call.
    While no replica runs, a call starts one, which takes `start_s`, and waits for it. `without` says how a
    replica refuses calls of an adapter that it lacks. What comes of a call is reported as `RemoteModel` does
    it: by the request id, under which the replica was noted.
    """

    start_s: float = 60.0
    num_starts: int = 0
    broken: set[str] = field(default_factory=set)
    hung: set[str] = field(default_factory=set)
    without: dict[tuple[str, str | None], AdapterMissing] = field(default_factory=dict)
    reached: list[str] = field(default_factory=list)
    replicas: ReplicaSet = field(default_factory=lambda: ReplicaSet("fake"))
    choose: Callable[[Collection[str]], str] = field(default=min)
    _up: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.on_unavailable: Callable[[], None] = lambda: None
        self.comes_up()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        request_id, adapter = request.request_id, request.adapter
        self.replicas.calls.began(request_id, adapter)
        try:
            async with aclosing(self._stream(request)) as chunks:
                async for chunk in chunks:
                    self.replicas.call_produced(request_id, adapter, chunk.finish)
                    yield chunk
        except RouterError as failure:
            self.replicas.call_failed(request_id, adapter, failure, "test")
            if isinstance(failure, ModelUnavailable) and not isinstance(failure, ModelOverloaded):
                self.on_unavailable()
            raise
        finally:
            self.replicas.calls.ended(request_id, adapter)

    async def _stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        if not self.replicas.running:
            await self._start()
        known = self.replicas.for_adapter(request.adapter)
        replica = probed_replica(request.request_id) or self.choose(known.healthy or known.running)
        self.replicas.calls.placed(request.request_id, replica)
        self.reached.append(replica)
        if replica in self.hung:
            await pause(Pause())
        self.replicas.calls.accepted(request.request_id)
        if replica in self.broken:
            raise GONE
        if (replica, request.adapter) in self.without:
            raise self.without[replica, request.adapter]
        async with aclosing(super().stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    def falls_asleep(self) -> None:
        self.replicas.set_running(())
        self._up = asyncio.Event()

    def comes_up(self, *replicas: str) -> None:
        self.replicas.set_running(replicas or ("r1",))
        self._up.set()

    async def _start(self) -> None:
        self.num_starts += 1
        asyncio.get_running_loop().call_later(self.start_s, self.comes_up)
        await self._up.wait()


class Cluster:
    """What a gateway connects to: models that play a script call by call, and then always answer."""

    def __init__(self, **scripts: Iterable[Iterable[Item]]) -> None:
        self.connects: list[str] = []
        self.failures: dict[str, list[Exception]] = {}
        self.models = {
            app: FakeApp(then_answers(*scripts.get(app, []))) for app in ("meta", "chem", "law", "weather")
        }

    async def connect(self, app: str) -> Deployed:
        self.connects.append(app)
        await asyncio.sleep(0)  # other tasks run meanwhile, as with a real connection
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
        **{"table_version": 1, "name": "g", "meta": ModelEntry(app="meta"), "experts": entries} | changes
    )


@asynccontextmanager
async def gateway_to(cluster: Cluster, first: RouteTable) -> AsyncIterator[ModelGateway]:
    gateway = ModelGateway(cluster.connect, 1024, FakeBroadcast())
    before = asyncio.all_tasks()
    try:
        await gateway.install(first)
        yield gateway
    finally:
        await gateway.close()
        assert asyncio.all_tasks() == before
        assert not any(model.num_open for model in cluster.models.values())


def opened(gateway: ModelGateway) -> set[str]:
    names = (META, *gateway.table.experts)
    return {name for name in names if gateway.state(name) is ModelState.READY}


async def settle(for_s: float = 10 * MAX_PAUSE_S) -> None:
    """Let this much (virtual) time pass."""
    await asyncio.sleep(for_s)


def probed(app: FakeApp) -> list[str | None]:
    """Which replica each call was to go to (None: any); all of them must have been probes."""
    assert all(is_probe(request.request_id) for request in app.asks)
    return [probed_replica(request.request_id) for request in app.asks]


async def call(gateway: ModelGateway, app: str, request: ModelRequest = REQUEST) -> list[ModelChunk]:
    async with aclosing(gateway.models[app].stream(request)) as chunks:
        return [chunk async for chunk in chunks]
