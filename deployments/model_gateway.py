"""What one router replica knows: the route table, and a route to every model in it."""

from __future__ import annotations

import asyncio
from collections import Counter

from deployments.connections import Connect, Connections, target_key
from deployments.load_reports import Broadcast, LoadReports
from deployments.model_route import ModelRoute
from deployments.probe import probe, start
from deployments.router_notices import RouterNotices
from router.admission.controller import Admission
from router.admission.quarantine import Quarantine
from router.api.key_limits import KeyLimits
from router.availability import ModelState
from router.clock import now_s
from router.decisions.metrics import Metrics, NoMetrics
from router.decisions.recorder import DecisionLog, DecisionRecorder, NoLog
from router.decoding.timing import Meter, NoMeter
from router.errors import ModelUnavailable, RouterError, TableStale
from router.load_report import ModelLoad
from router.table import ModelEntry, RouteTable
from router.tracing import NoTracer, Tracer

# How soon a change of the replicas is noticed, for example a model that another router woke. A refresh only
# reads what Serve has already sent to our handle.
REFRESH_PERIOD_S = 1.0


class ModelGateway:
    """Keeps the routes to models open under changing tables; the `Gateway` of a real cluster."""

    def __init__(
        self,
        connect: Connect,
        max_body_bytes: int,
        broadcast: Broadcast,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
        metrics: Metrics | None = None,
        decision_log: DecisionLog | None = None,
        limits: KeyLimits | None = None,
    ) -> None:
        self.max_body_bytes = max_body_bytes
        self.meter = meter or NoMeter()
        self.tracer = tracer or NoTracer()
        self.limits = limits or KeyLimits()
        self.recorder = DecisionRecorder(
            metrics or NoMetrics(),
            decision_log or NoLog(),
            lambda: self._known_table,
            spend=self.limits.leases.spend,
        )
        self.models = Connections(self.refresh_app)
        self.admission = Admission(self.num_slots, self.max_slots)
        self._notices = RouterNotices(broadcast)
        self.quarantine = Quarantine(self._notices.quarantine)
        self._loads = LoadReports(broadcast)
        self._connect = connect
        self._table: RouteTable | None = None
        self._confirmed_s = 0.0  # when the controller last gave a sign that the table is the newest
        self._routes: dict[str, ModelRoute] = {}
        self._by_app: dict[str, list[ModelRoute]] = {}
        self._refreshing: asyncio.Task[None] | None = None

    @property
    def table(self) -> RouteTable:
        """For new requests. Raises TableStale if it may have been withdrawn for too long."""
        table = self._known_table
        age_s, max_age_s = now_s() - self._confirmed_s, table.max_table_age_s
        if max_age_s is not None and age_s > max_age_s:
            raise TableStale(
                f"this router has not heard from Serve's controller for {age_s:.0f} s, so its models and API "
                "keys may be out of date; send the request to another router"
            )
        return table

    @property
    def _known_table(self) -> RouteTable:
        if self._table is None:
            raise ModelUnavailable("this router has no route table yet")
        return self._table

    def confirm_table(self) -> None:
        """The controller has reached this router, so it would have delivered a newer table."""
        self._confirmed_s = now_s()

    def state(self, name: str) -> ModelState:
        route = self._routes.get(name)  # read for every expert at every decision
        return ModelState.MASKED if route is None else route.state

    def wake(self, name: str) -> None:
        if name in self._routes:
            self._routes[name].wake()

    async def wait_until_ready(self, name: str) -> None:
        if name not in self._routes:
            raise ModelUnavailable(f"model {name} was removed from the route table")
        await self._routes[name].wait_until_ready()

    def stalled(self, name: str, request_id: str) -> None:
        if name in self._routes:
            self._routes[name].stalled(request_id)

    def num_answered(self, name: str) -> int:
        route = self._routes.get(name)
        if route is None or route.entry.app not in self.models:
            return 0
        replicas = self.models[route.entry.app].replicas
        return replicas.for_adapter(route.entry.adapter).deaths.num_answered

    async def answers(self, name: str) -> bool:
        """Also False if the answer takes longer than a first token may."""
        route = self._routes.get(name)
        if route is None:
            return False
        try:
            async with asyncio.timeout(route.first_token_s):
                if route.state is ModelState.READY:
                    model, adapter = self.models[route.entry.app], route.entry.adapter
                    await probe(model, route.first_token_s, adapter=adapter)
                else:
                    await route.wait_until_ready()  # a probe opens it
        except (TimeoutError, RouterError):
            return False
        return True

    def vocabulary(self, name: str) -> str | None:
        route = self._routes.get(name)
        is_connected = route is not None and route.entry.app in self.models
        return self.models[route.entry.app].replicas.vocabulary if route and is_connected else None

    def num_slots(self, app: str) -> int:
        route = self._route_to(app)
        return 1 if route is None else route.num_slots

    def max_slots(self, app: str) -> int:
        route = self._route_to(app)
        return 1 if route is None else route.max_slots

    async def load(self) -> dict[str, ModelLoad | None]:
        table = self.table
        return await self._loads.by_model(table.models)

    @property
    def ejected(self) -> dict[str, dict[str, str]]:
        connected = {
            name: route.entry.app for name, route in self._routes.items() if route.entry.app in self.models
        }
        reasons = {name: self.models[app].replicas.why_ejected for name, app in connected.items()}
        return {name: why for name, why in reasons.items() if why}

    @property
    def open_calls(self) -> dict[str, int]:
        """How many calls are under way or wait for a model to start, by `target_key`."""
        calls = Counter(self.models.open_calls)
        for route in self._routes.values():
            calls[target_key(route.entry.app, route.entry.adapter)] += route.num_waiting
        return dict(calls)

    async def install(self, table: RouteTable) -> None:
        """Replace the table. A route is kept if it leads to the same application and adapter as before.

        Answers under way continue with the table they began with. They finish the call that runs, but cannot
        call again a model that only the old table names.
        """
        # Nothing is awaited before the new routes are refreshed, or a model that becomes unavailable
        # meanwhile would be opened twice.
        is_first = self._table is None
        old, self._table = self._routes, table
        self.confirm_table()
        self._routes = {
            name: self._kept(old.get(name), entry) or self._new(entry, is_first)
            for name, entry in table.models.items()
        }
        self._by_app = {}
        for route in self._routes.values():
            self._by_app.setdefault(route.entry.app, []).append(route)
        self.models.keep(self._by_app.keys())
        self._set_outlier_rules()
        removed = [route for name, route in old.items() if self._routes.get(name) is not route]
        for route in self._routes.values():
            route.refresh()
        if self._refreshing is None:
            self._refreshing = start(self._keep_refreshing(), "refresh routes")
        await _close(removed)

    async def wait_until_settled(self, timeout_s: float) -> None:
        """Wait until every model has answered or is found asleep, at most `timeout_s`."""
        openings = [route.opening for route in self._routes.values() if route.opening]
        if openings:
            await asyncio.wait(openings, timeout=timeout_s)

    def refresh_app(self, app: str) -> None:
        """Called when a call found a replica of `app`, or all of them, unavailable."""
        for route in self._by_app.get(app, ()):
            route.refresh()

    async def close(self) -> None:
        # Emptied first, or a call that fails from now on would open a route again.
        routes, self._routes, self._by_app = list(self._routes.values()), {}, {}
        refreshing, self._refreshing = self._refreshing, None
        if refreshing:
            refreshing.cancel()
            await asyncio.gather(refreshing, return_exceptions=True)
        await self._notices.close()
        await _close(routes)

    def _route_to(self, app: str) -> ModelRoute | None:
        """Any route to the application, since all of them share its replicas. A route that is not connected
        yet does not know them, so it is the last choice."""
        routes = self._by_app.get(app, [])
        return next((route for route in routes if route.is_connected), routes[0] if routes else None)

    def _new(self, entry: ModelEntry, is_first: bool) -> ModelRoute:
        # A model that a router finds when it starts may have served before and be unavailable for a moment.
        # Only a model that is added later is certainly new.
        may_have_served = is_first and entry.on_unavailable == "wait" and not entry.scales_to_zero
        deadlines = self._known_table.deadlines
        return ModelRoute(entry, deadlines, self.models, self._connect, may_have_served=may_have_served)

    def _kept(self, route: ModelRoute | None, entry: ModelEntry) -> ModelRoute | None:
        if route is None or (route.entry.app, route.entry.adapter) != (entry.app, entry.adapter):
            return None
        route.update(entry, self._known_table.deadlines)
        return route

    async def _keep_refreshing(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_PERIOD_S)
            for route in self._routes.values():
                route.refresh()
            self._set_outlier_rules()
            if turns := self.recorder.authors.take_new():
                self._notices.turn_authors(turns)

    def _set_outlier_rules(self) -> None:
        for model in self.models.values():
            model.replicas.errors.rules = self._known_table.outliers


async def _close(routes: list[ModelRoute]) -> None:
    tasks = [task for route in routes for task in route.close()]
    await asyncio.gather(*tasks, return_exceptions=True)
