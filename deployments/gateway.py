"""What one router replica knows: the route table, and the way to every model in it."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

from deployments.connections import Connect, Connections, place
from deployments.load import Loads, Replicas
from deployments.probe import start
from deployments.route import Route
from router.admission import Admission
from router.errors import ModelUnavailable
from router.load import ModelLoad
from router.quarantine import Quarantine
from router.routes import State
from router.table import META, ModelEntry, RouteTable
from router.timing import Meter, NoMeter

logger = logging.getLogger(__name__)

# How soon it is noticed what became of replicas, a model that another router woke for one; a look is at what
# Serve has told our handle anyway.
LOOK_PERIOD_S = 1.0


class Gateway:
    """Keeps the ways to models open under changing tables; `router.http.Gateway` on a real cluster."""

    def __init__(
        self, connect: Connect, max_body_bytes: int, replicas: Replicas, meter: Meter | None = None
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self.meter = meter or NoMeter()
        self.models = Connections(self.lost)
        self.admission = Admission(self.num_slots, self.max_slots)
        self.quarantine = Quarantine(self._tell_routers)
        self._replicas = replicas
        self._loads = Loads(replicas)
        self._connect = connect
        self._table: RouteTable | None = None
        self._routes: dict[str, Route] = {}
        self._sharing: dict[str, list[Route]] = {}  # by application
        self._watch: asyncio.Task[None] | None = None
        self._telling: set[asyncio.Task[None]] = set()

    @property
    def table(self) -> RouteTable:
        if self._table is None:
            raise ModelUnavailable("this router has no route table yet")
        return self._table

    def state(self, name: str) -> State:
        route = self._routes.get(name)  # of every expert, at every decision
        return State.MASKED if route is None else route.state

    def wake(self, name: str) -> None:
        if name in self._routes:
            self._routes[name].wake()

    async def awake(self, name: str) -> None:
        if name not in self._routes:
            raise ModelUnavailable(f"there is no model {name} any more")
        await self._routes[name].awake()

    def stalled(self, name: str, request_id: str) -> None:
        if name in self._routes:
            self._routes[name].stalled(request_id)

    def num_slots(self, app: str) -> int:
        route = self._any_of(app)
        return 1 if route is None else route.num_slots

    def max_slots(self, app: str) -> int:
        route = self._any_of(app)
        return 1 if route is None else route.max_slots

    async def load(self) -> dict[str, ModelLoad | None]:
        table = self.table
        return await self._loads.of_models({META: table.meta, **table.experts})

    @property
    def open_calls(self) -> dict[str, int]:
        """By `place`, the calls under way and those that wait for a model to start."""
        calls = Counter(self.models.open_calls)
        for route in self._routes.values():
            calls[place(route.entry.app, route.entry.adapter)] += route.num_waiting
        return dict(calls)

    async def install(self, table: RouteTable) -> None:
        """Replace the table. A route goes on while it leads to the same application and adapter.

        Answers under way go on with the table they began with: what is being written is written to its end,
        but a model that only the old table names is not found again.
        """
        # Nothing is awaited before the new routes look: a model lost meanwhile must not get a second opener.
        is_first = self._table is None
        old, self._table = self._routes, table
        self._routes = {
            name: self._kept(old.get(name), entry) or self._new(entry, is_first)
            for name, entry in {META: table.meta, **table.experts}.items()
        }
        self._sharing = {}
        for route in self._routes.values():
            self._sharing.setdefault(route.entry.app, []).append(route)
        self.models.keep(self._sharing.keys())
        gone = [route for name, route in old.items() if self._routes.get(name) is not route]
        for route in self._routes.values():
            route.look()
        if self._watch is None:
            self._watch = start(self._keep_looking(), "watch replicas")
        await _close(gone)

    async def settle(self, limit_s: float) -> None:
        """Wait until every model has answered, or been found asleep; `limit_s` at the most."""
        openings = [route.opening for route in self._routes.values() if route.opening]
        if openings:
            await asyncio.wait(openings, timeout=limit_s)

    def lost(self, app: str) -> None:
        """A call found a replica of `app`, or all of it, away."""
        for route in self._sharing.get(app, ()):
            route.look()

    async def close(self) -> None:
        # Emptied first, or an answer that fails from now on would start an opener.
        gone, self._routes, self._sharing = list(self._routes.values()), {}, {}
        watch, self._watch = self._watch, None
        ending = [*self._telling, *([watch] if watch else [])]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        await _close(gone)

    def _tell_routers(self, digest: str) -> None:
        """The request that led to it does not wait for that, nor fail of it."""
        telling = start(self._tell(digest), "tell routers")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell(self, digest: str) -> None:
        try:
            await self._replicas.quarantine(digest)
        except ModelUnavailable as error:
            logger.warning("other routers were not told of a prompt in quarantine: %s", error)

    def _any_of(self, app: str) -> Route | None:
        """Those that lead to one application share its replicas; not all of a thousand need be asked, several
        times for each request. One that is not connected yet knows of none."""
        sharing = self._sharing.get(app, [])
        return next((route for route in sharing if route.is_connected), sharing[0] if sharing else None)

    def _new(self, entry: ModelEntry, is_first: bool) -> Route:
        # What a router finds when it starts may have served for long, and be away for a moment; only what
        # is added later is sure to be new.
        may_be_away = is_first and entry.when_away == "wait" and not entry.wakes
        return Route(entry, self.table.deadlines, self.models, self._connect, may_be_away=may_be_away)

    def _kept(self, route: Route | None, entry: ModelEntry) -> Route | None:
        if route is None or (route.entry.app, route.entry.adapter) != (entry.app, entry.adapter):
            return None
        route.update(entry, self.table.deadlines)
        return route

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_PERIOD_S)
            for route in self._routes.values():
                route.look()


async def _close(routes: list[Route]) -> None:
    tasks = [task for route in routes for task in route.close()]
    await asyncio.gather(*tasks, return_exceptions=True)
