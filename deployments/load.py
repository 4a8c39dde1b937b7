"""How busy every model is: its replicas say so when somebody asks, about once a second at the most.

The same way leads from one router to all others.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Collection, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ray import serve
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle

from deployments.connections import place
from deployments.model_app import model_handle
from deployments.remote import FOREIGN
from router.errors import ModelUnavailable, RouterError
from router.load import ModelLoad, ReplicaLoad
from router.table import ModelEntry

KEEP_S = 1.0
LIMIT_S = 2.0
# Of each replica; shorter, so that those which answer are heard before their model is given up.
REPLICA_S = 1.5

T = TypeVar("T")


class Replicas(Protocol):
    """Reaches every replica of an application; to ask starts none and keeps none from going to sleep."""

    async def loads(self, app: str) -> list[ReplicaLoad]:
        """What each replica of the application says that answers; empty while none runs.

        Raises:
            ModelUnavailable: there is no such application, the way to it is broken, or no replica answers.
        """
        ...

    async def open_calls(self) -> Mapping[str, int]:
        """By `place`, the calls that all routers together have under way. Raises ModelUnavailable."""
        ...

    async def quarantine(self, digest: str) -> None:
        """Tell every router, this one too, of a prompt to quarantine. Raises ModelUnavailable."""
        ...

    def keep(self, apps: Collection[str]) -> None:
        """Let go of every other application."""
        ...


class Loads:
    """The load of models by application, looked at when somebody asks and the last look is old."""

    def __init__(self, replicas: Replicas) -> None:
        self._replicas = replicas
        self._lock = asyncio.Lock()  # who asks meanwhile shares the look that is under way
        self._seen: dict[str, ModelLoad | None] = {}  # by application
        self._calls: Mapping[str, int] = {}
        self._looked_at_s = float("-inf")

    async def of(self, apps: Collection[str]) -> dict[str, ModelLoad | None]:
        """None for an application that did not answer in time."""
        clock = asyncio.get_running_loop().time
        async with self._lock:
            if clock() - self._looked_at_s >= KEEP_S or not set(apps) <= self._seen.keys():
                await self._look(sorted(set(apps)))
                self._looked_at_s = clock()
            return {app: self._seen[app] for app in apps}

    async def of_models(self, entries: Mapping[str, ModelEntry]) -> dict[str, ModelLoad | None]:
        """By the same names; each has its own part of an application that serves several."""
        loads = await self.of({entry.app for entry in entries.values()})
        return {name: self._part(loads[entry.app], entry) for name, entry in entries.items()}

    def _part(self, load: ModelLoad | None, entry: ModelEntry) -> ModelLoad | None:
        if load is None or entry.adapter is None:
            return load
        return load.of_adapter(entry.adapter, self._calls.get(place(entry.app, entry.adapter), 0))

    async def _look(self, apps: Sequence[str]) -> None:
        self._replicas.keep(apps)
        loads = asyncio.gather(*(_in_time(self._replicas.loads(app)) for app in apps))
        calls, found = await asyncio.gather(_in_time(self._replicas.open_calls()), loads)
        self._calls = calls or {}
        self._seen = {
            app: None if one is None else _sum(one, self._calls.get(app, 0))
            for app, one in zip(apps, found, strict=True)
        }


class ServeReplicas:
    """`Replicas` by Serve's broadcasts.

    A model has a `load()`; the router has `open_calls()` and `learn_quarantine(digest)`.
    """

    def __init__(self) -> None:
        self._handles: dict[str, DeploymentHandle[Any]] = {}

    async def loads(self, app: str) -> list[ReplicaLoad]:
        return await self._ask_all(app, "load")

    async def open_calls(self) -> Mapping[str, int]:
        total: Counter[str] = Counter()
        for calls in await self._ask_all(serve.get_replica_context().app_name, "open_calls"):
            total.update(calls)
        return total

    async def quarantine(self, digest: str) -> None:
        await self._ask_all(serve.get_replica_context().app_name, "learn_quarantine", digest)

    def keep(self, apps: Collection[str]) -> None:
        own = serve.get_replica_context().app_name
        self._handles = {app: handle for app, handle in self._handles.items() if app in {own, *apps}}

    async def _ask_all(self, app: str, method: str, *args: str) -> list[Any]:
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
        # A handle reports even these calls to Serve's scaling as requests, so a model that is watched would
        # never be idle. Shutting a handle down ends its reports, and nothing else.
        await handle.shutdown_async()
        self._handles[app] = handle
        return handle


async def _answers(response: DeploymentBroadcastResponse) -> list[Any]:
    """What the replicas answer in time; one that fails or is silent is left out.

    Raises:
        TimeoutError: that is all of them.
    """
    # Private, and yet: Serve's `results_async` gives nothing at all if a single replica is silent.
    async with asyncio.timeout(REPLICA_S):
        replicas = await response._fetch_replica_results_async()
    asked = (asyncio.wait_for(replica.get_async(), REPLICA_S) for replica in replicas)
    found = await asyncio.gather(*asked, return_exceptions=True)
    answers = [one for one in found if not isinstance(one, BaseException)]
    if replicas and not answers:
        raise TimeoutError
    return answers


def _sum(replicas: Sequence[ReplicaLoad], num_open: int) -> ModelLoad:
    num_running = sum(one.num_running for one in replicas)
    return ModelLoad(
        num_running=num_running,
        # A full replica takes no call, so most of the queue stands in the routers' handles.
        num_queued=max(num_open - num_running, sum(one.num_waiting for one in replicas)),
        num_tokens=sum(one.num_tokens for one in replicas),
        replicas=tuple(sorted(replicas, key=lambda one: one.replica)),
    )


async def _in_time(answer: Awaitable[T]) -> T | None:
    try:
        async with asyncio.timeout(LIMIT_S):
            return await answer
    except (TimeoutError, RouterError):
        return None
