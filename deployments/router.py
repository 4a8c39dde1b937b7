"""Router: the OpenAI-compatible API as a Serve ingress."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from deployments.connections import Connect
from deployments.decision_log import FileDecisionLog
from deployments.http.cluster_endpoint import ClusterEndpoint
from deployments.http.page import Page
from deployments.limits.keeper import RayKeeper, keep_renewing, renew
from deployments.load_reports import ServeBroadcast
from deployments.metrics import ServeMeter, ServeMetrics
from deployments.model_app import model_handle
from deployments.model_gateway import ModelGateway
from deployments.probe import start
from deployments.remote import RemoteModel
from deployments.replicas.app_reports import ServeAppReports
from deployments.replicas.cancelled_requests import log_cancelled_requests
from deployments.replicas.state_metrics import StateMetrics
from deployments.tracing.tracer import OtlpTracer
from router.admission.leases import Leases
from router.api.key_limits import KeyLimits
from router.decisions.last_hour import LastHour
from router.decisions.metrics import Metric
from router.decoding.timing import Timing
from router.dialects.app import build_app
from router.frozen import read_settings
from router.table import RouteTable

# A router that joins a running cluster needs a moment to probe its models. One that starts together with the
# cluster does not wait until their weights are loaded.
STARTUP_TIMEOUT_S = 10.0


class RouterMeter(ServeMeter):
    """Also keeps the last hour, for the page."""

    def __init__(self, last_hour: LastHour) -> None:
        super().__init__()
        self._last_hour = last_hour

    def ended(self, timing: Timing) -> None:
        super().ended(timing)
        self._last_hour.add(timing)


class RouterMetrics(ServeMetrics):
    """Also keeps the last hour of shadow experts."""

    def __init__(self, last_hour: LastHour) -> None:
        super().__init__()
        self._last_hour = last_hour

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        super().add(metric, value, tags)
        self._last_hour.count(metric, value, tags)


class Router:
    """`connect_model` returns an application's model; None: `connect`."""

    def __init__(self, max_body_bytes: int, connect_model: Connect | None = None) -> None:
        log_cancelled_requests()
        self._last_hour = LastHour()
        self._tracer = OtlpTracer()
        metrics = RouterMetrics(self._last_hour)
        self._decision_log = FileDecisionLog(metrics)
        self._keeper = RayKeeper()
        self._leases = Leases(self._keeper)
        self._gateway = ModelGateway(
            connect_model or connect,
            max_body_bytes,
            ServeBroadcast(),
            RouterMeter(self._last_hour),
            self._tracer,
            metrics,
            self._decision_log,
            KeyLimits(self._leases),
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._is_set_up = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve puts its own request id on every response.
        app = build_app(self._gateway, echo_request_id=False)
        ClusterEndpoint(self._gateway, ServeAppReports(), self._last_hour).add_to(app)
        app.add_middleware(Page, table_of=lambda: self._gateway.table)
        return app

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve delivers a changed route table here, without a restart."""
        is_first = not self._is_set_up
        table = read_settings(RouteTable, user_config)
        await self._tracer.configure(table.tracing)
        await self._gateway.install(table)  # before the log: a disk may hang
        await asyncio.to_thread(self._decision_log.configure, table.decision_log)
        self._is_set_up = True
        if is_first:
            if table.keys:  # so that no request finds the keeper away
                await renew(self._keeper, self._leases)
            renewing = keep_renewing(self._keeper, self._leases, lambda: bool(self._gateway.table.keys))
            self._tasks = [
                start(StateMetrics(self._gateway).keep_observing(), "observe the state"),
                start(renewing, "renew leases"),
            ]
            # Serve sends requests when this returns; an expert not probed by then would be masked.
            await self._gateway.wait_until_settled(STARTUP_TIMEOUT_S)

    async def open_calls(self) -> dict[str, int]:
        """As `Broadcast.open_calls`, of this router alone."""
        return self._gateway.open_calls

    async def learn_quarantine(self, digest: str) -> None:
        """Another router found a prompt that crashes replicas."""
        self._gateway.quarantine.learn(digest)

    async def learn_turn_authors(self, turns: dict[str, str]) -> None:
        """Another router has answered these turns."""
        self._gateway.recorder.authors.learn(turns)

    async def check_health(self) -> None:
        """Async, so that a blocked event loop fails it. The models have their own health checks.

        Serve's controller alone calls this, so a router that it cannot reach notices that.
        """
        self._gateway.confirm_table()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await self._gateway.close()
        await self._tracer.close()
        await asyncio.to_thread(self._decision_log.close)


async def connect(app: str) -> RemoteModel:
    """The application's model, even if no replica of it runs.

    Raises:
        ModelUnavailable: there is no such application yet.
    """
    return RemoteModel(app, await model_handle(app))
