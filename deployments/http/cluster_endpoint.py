"""`GET /cluster`: all that the page shows of a cluster, in one answer."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Any

from fastapi import Request, Response

from deployments.replicas.app_reports import AppReport, AppReports
from router.api.completion_models import ResponseModel
from router.api.gateway import Gateway, permitted_table
from router.api.middleware import json_response
from router.availability import ModelState
from router.decisions.last_hour import LastHour
from router.dialects.openapi import DocumentedApp
from router.load_report import ModelLoad
from router.table import RouteTable

PATH = "/cluster"


class ModelView(ResponseModel):
    """`replicas` and `load` are null if unknown. `num_waiting`: answers that wait in this router replica."""

    state: ModelState
    replicas: AppReport | None
    load: ModelLoad | None
    num_waiting: int


class ShadowView(ResponseModel):
    """In how many answers a shadow expert was scored, and in how many it would have taken over."""

    num_answers: int
    num_wins: int


class LastHourResponse(ResponseModel):
    """The answers that this router replica ended in the last hour. `phases_s`: seconds of all calls."""

    num_answers: int
    handovers: dict[str, int]
    phases_s: dict[str, float]
    shadows: dict[str, ShadowView]


class ClusterResponse(ResponseModel):
    models: dict[str, ModelView]
    last_hour: LastHourResponse


class ClusterEndpoint:
    def __init__(self, gateway: Gateway, reports: AppReports, last_hour: LastHour) -> None:
        self._gateway = gateway
        self._reports = reports
        self._last_hour = last_hour

    def add_to(self, app: DocumentedApp) -> None:
        app.add(PATH, self.cluster, ClusterResponse)

    async def cluster(self, request: Request) -> Response:
        """Show the state, replicas and load of each model, and what the answers of the last hour did."""
        table = permitted_table(self._gateway, request)
        last_hour = self._last_hour.summary().to_json(table)
        return json_response({"models": await self._models(table), "last_hour": last_hour})

    async def _models(self, table: RouteTable) -> dict[str, Any]:
        gateway = self._gateway
        loads, reports = await asyncio.gather(gateway.load(), self._reports.by_app())
        queues = gateway.admission.load()
        views = {}
        for name in table.models:
            load, report = loads.get(name), reports.get(table.app(name))
            views[name] = {
                "state": gateway.state(name),
                "replicas": report and asdict(report),
                "load": load and asdict(load),
                "num_waiting": queues.get(table.app(name), {}).get("num_waiting", 0),
            }
        return views
