"""How busy every model is. Its replicas are asked when a caller asks, at most about once a second.

The same broadcast reaches all routers from one of them.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle

from deployments.connections import target_key
from deployments.model_app import model_handle
from deployments.remote import FOREIGN
from router.errors import ModelUnavailable, RouterError
from router.load_report import ModelLoad, ReplicaLoad
from router.table import ModelEntry

LOAD_CACHE_TTL_S = 1.0
APP_TIMEOUT_S = 2.0
REPLICA_TIMEOUT_S = 1.5  # shorter, so that one silent replica does not cost the others' answers

T = TypeVar("T")


class Broadcast(Protocol):
    """Reaches every replica of an application. It starts none and does not keep any from scaling to zero."""

    async def loads(self, app: str) -> list[ReplicaLoad]:
        """The load of each replica that answers; empty while none runs.

        Raises:
            ModelUnavailable: there is no such application, it cannot be reached, or no replica answers.
        """
        ...

    async def open_calls(self) -> Mapping[str, int]:
        """How many calls all routers together have under way, by `target_key`. Raises ModelUnavailable."""
        ...

    async def quarantine(self, digest: str) -> None:
        """Tell every router, this one too, which prompt to quarantine. Raises ModelUnavailable."""
        ...

    async def turn_authors(self, turns: Mapping[str, str]) -> None:
        """Tell every router who wrote these turns, as `TurnAuthors.learn`. Raises ModelUnavailable."""
        ...

    def keep(self, apps: Collection[str]) -> None:
        """Drop the handles to all other applications."""
        ...


class LoadReports:
    """The load of models, read again when a caller asks and the last reading is old."""

    def __init__(self, broadcast: Broadcast) -> None:
        self._broadcast = broadcast
        self._by_app: dict[str, ModelLoad | None] = {}
        self._calls: Mapping[str, int] = {}
        self._read_at_s = float("-inf")
        self._lock = asyncio.Lock()

    async def by_app(self, apps: Collection[str]) -> dict[str, ModelLoad | None]:
        """None for an application that did not answer in time."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._read_at_s >= LOAD_CACHE_TTL_S or not set(apps) <= self._by_app.keys():
                await self._read(sorted(set(apps)))
                self._read_at_s = clock()
            return {app: self._by_app[app] for app in apps}

    async def by_model(self, entries: Mapping[str, ModelEntry]) -> dict[str, ModelLoad | None]:
        """By the names of `entries`. An expert of a pool has its own part of the application's load."""
        loads = await self.by_app({entry.app for entry in entries.values()})
        return {name: self._part(loads[entry.app], entry) for name, entry in entries.items()}

    def _part(self, load: ModelLoad | None, entry: ModelEntry) -> ModelLoad | None:
        if load is None or entry.adapter is None:
            return load
        return load.of_adapter(entry.adapter, self._calls.get(target_key(entry.app, entry.adapter), 0))

    async def _read(self, apps: Sequence[str]) -> None:
        self._broadcast.keep(apps)
        loads = asyncio.gather(*(_in_time(self._broadcast.loads(app)) for app in apps))
        calls, found = await asyncio.gather(_in_time(self._broadcast.open_calls()), loads)
        self._calls = calls or {}
        self._by_app = {
            app: None if replicas is None else _sum(replicas, self._calls.get(app, 0))
            for app, replicas in zip(apps, found, strict=True)
        }


class ServeBroadcast:
    """`Broadcast` over Serve's handles.

    A model has a method `load()`; the router has `open_calls()`, `learn_quarantine(digest)` and
    `learn_turn_authors(turns)`.
    """

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    async def loads(self, app: str) -> list[ReplicaLoad]:
        return await self._call_all(app, "load")

    async def open_calls(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for calls in await self._call_all(serve.get_replica_context().app_name, "open_calls"):
            total.update(calls)
        return total

    async def quarantine(self, digest: str) -> None:
        await self._call_all(serve.get_replica_context().app_name, "learn_quarantine", digest)

    async def turn_authors(self, turns: Mapping[str, str]) -> None:
        await self._call_all(serve.get_replica_context().app_name, "learn_turn_authors", dict(turns))

    def keep(self, apps: Collection[str]) -> None:
        own = serve.get_replica_context().app_name
        kept = {own, *apps}
        self._handles = {app: handle for app, handle in self._handles.items() if app in kept}

    async def _call_all(self, app: str, method: str, *args: Any) -> list[Any]:
        try:
            handle = self._handles.get(app) or await self._connect(app)
            return await _answers(handle.broadcast(method, *args))
        except DeploymentUnavailableError:
            return []
        except FOREIGN as error:
            raise ModelUnavailable(f"{app} does not answer '{method}'") from error

    async def _connect(self, app: str) -> DeploymentHandle[Any]:
        is_own = app == serve.get_replica_context().app_name
        found = await (asyncio.to_thread(serve.get_app_handle, app) if is_own else model_handle(app))
        handle = found.options(method_name="load")
        # A handle reports even these calls to Serve's autoscaler as requests, so a model whose load is read
        # would never be idle. Shutting a handle down ends its reports and nothing else.
        await handle.shutdown_async()
        self._handles[app] = handle
        return handle


async def _answers(response: DeploymentBroadcastResponse) -> list[Any]:
    """What the replicas answer in time, without those that fail or do not answer.

    Raises:
        TimeoutError: none of them answers.
    """
    # A private method, because Serve's `results_async` returns nothing at all if a single replica is silent.
    async with asyncio.timeout(REPLICA_TIMEOUT_S):
        replicas = await response._fetch_replica_results_async()
    calls = (asyncio.wait_for(replica.get_async(), REPLICA_TIMEOUT_S) for replica in replicas)
    found = await asyncio.gather(*calls, return_exceptions=True)
    answers = [answer for answer in found if not isinstance(answer, BaseException)]
    if replicas and not answers:
        raise TimeoutError
    return answers


def _sum(replicas: Sequence[ReplicaLoad], num_open: int) -> ModelLoad:
    num_running = sum(replica.num_running for replica in replicas)
    return ModelLoad(
        num_running=num_running,
        # A full replica takes no further call, so most of the queue is in the routers' handles.
        num_queued=max(num_open - num_running, sum(replica.num_waiting for replica in replicas)),
        num_tokens=sum(replica.num_tokens for replica in replicas),
        replicas=tuple(sorted(replicas, key=lambda replica: replica.replica)),
    )


async def _in_time(answer: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(APP_TIMEOUT_S):
            return await answer
    except (TimeoutError, RouterError):
        return None
