"""What one router replica knows: the route table, and the way to every model in it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from deployments.load import Loads, Replicas
from deployments.remote import Connections
from deployments.route import Connect, Route
from router.errors import ModelUnavailable
from router.load import ModelLoad
from router.routes import State
from router.table import META, ModelEntry, RouteTable

logger = logging.getLogger(__name__)

# How soon a model is noticed that another router woke; a look is at what Serve has told our handle anyway.
LOOK_PERIOD_S = 1.0


class Gateway:
    """Keeps the ways to models open under changing tables; `router.http.Gateway` on a real cluster."""

    def __init__(self, connect: Connect, max_body_bytes: int, replicas: Replicas) -> None:
        self.max_body_bytes = max_body_bytes
        self.models = Connections(self.lost)
        self._loads = Loads(replicas)
        self._connect = connect
        self._table: RouteTable | None = None
        self._routes: dict[str, Route] = {}
        self._watch: asyncio.Task[None] | None = None

    @property
    def table(self) -> RouteTable:
        if self._table is None:
            raise ModelUnavailable("this router has no route table yet")
        return self._table

    def state(self, name: str) -> State:
        return self._routes[name].state if name in self._routes else State.MASKED

    def wake(self, name: str) -> None:
        if name in self._routes:
            self._routes[name].wake()

    async def awake(self, name: str) -> None:
        if name not in self._routes:
            raise ModelUnavailable(f"there is no model {name} any more")
        await self._routes[name].awake()

    async def load(self) -> dict[str, ModelLoad | None]:
        table = self.table
        entries = {META: table.meta, **table.experts}
        loads = await self._loads.of({entry.app for entry in entries.values()})
        return {name: loads[entry.app] for name, entry in entries.items()}

    @property
    def open_calls(self) -> dict[str, int]:
        """By application, the calls under way and those that wait for it to start."""
        calls = Counter(self.models.open_calls)
        for route in self._routes.values():
            calls[route.entry.app] += route.num_waiting
        return dict(calls)

    async def install(self, table: RouteTable) -> None:
        """Replace the table. A route goes on while it leads to the same application.

        Answers under way go on with the table they began with: what is being written is written to its end,
        but a model that only the old table names is not found again.
        """
        # Nothing is awaited before the new routes look: a model lost meanwhile must not get a second opener.
        old, self._table = self._routes, table
        self._routes = {
            name: self._kept(old.get(name), entry) or self._new(entry)
            for name, entry in {META: table.meta, **table.experts}.items()
        }
        self.models.keep({route.entry.app for route in self._routes.values()})
        gone = [route for name, route in old.items() if self._routes.get(name) is not route]
        for route in self._routes.values():
            route.look()
        self._watch_sleepers()
        await _close(gone)

    def lost(self, app: str) -> None:
        """A call found the model of `app` away."""
        for name, route in self._routes.items():
            if route.entry.app == app:
                if route.state is State.READY:
                    logger.warning("%s is away; the route '%s' is closed until it answers", app, name)
                route.lost()

    async def close(self) -> None:
        # Emptied first, or an answer that fails from now on would start an opener.
        gone, self._routes = list(self._routes.values()), {}
        watch, self._watch = self._watch, None
        if watch:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        await _close(gone)

    def _new(self, entry: ModelEntry) -> Route:
        return Route(entry, self.table.deadlines, self.models, self._connect)

    def _kept(self, route: Route | None, entry: ModelEntry) -> Route | None:
        if route is None or route.entry.app != entry.app:
            return None
        route.update(entry, self.table.deadlines)
        return route

    def _watch_sleepers(self) -> None:
        if self._watch is None and any(route.entry.wakes for route in self._routes.values()):
            self._watch = asyncio.create_task(self._look_at_sleepers(), name="watch sleepers")

    async def _look_at_sleepers(self) -> None:
        """What starts or stops a model that may sleep need not have passed through this router."""
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            for route in self._routes.values():
                if route.entry.wakes:
                    route.look()


async def _close(routes: list[Route]) -> None:
    tasks = [task for route in routes for task in route.close()]
    await asyncio.gather(*tasks, return_exceptions=True)
