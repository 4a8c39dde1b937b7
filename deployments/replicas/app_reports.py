"""What Serve's controller says about the replicas of every application. No answer waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from deployments.replicas.serve_messages import root_message

RUNNING, STOPPING = "RUNNING", "STOPPING"  # Serve's words for the state of a replica
CACHE_TTL_S = 1.0
TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class AppReport:
    """`num_wanted` counts the replicas that run or start; `message` is Serve's, in one line, or empty."""

    num_ready: int
    num_wanted: int
    message: str


class AppReports(Protocol):
    async def by_app(self) -> Mapping[str, AppReport]:
        """Empty if the controller does not answer in time."""
        ...


class ServeAppReports:
    """Asks the controller when a caller asks and the last report is old."""

    def __init__(self) -> None:
        self._reports: Mapping[str, AppReport] = {}
        self._read_at_s = float("-inf")
        self._reading: asyncio.Task[Mapping[str, AppReport]] | None = None

    async def by_app(self) -> Mapping[str, AppReport]:
        clock = asyncio.get_running_loop().time
        if clock() - self._read_at_s < CACHE_TTL_S:
            return self._reports
        # One reading for all callers: without a controller its thread waits, and more of them would not help.
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(_read())
        try:
            async with asyncio.timeout(TIMEOUT_S):
                self._reports = await asyncio.shield(self._reading)
        except (TimeoutError, RayError, RayServeException):
            return {}
        self._read_at_s = clock()
        return self._reports


async def _read() -> Mapping[str, AppReport]:
    status = await asyncio.to_thread(serve.status)
    return {name: app_report(app) for name, app in status.applications.items()}


def app_report(app: ApplicationStatusOverview) -> AppReport:
    deployments = list(app.deployments.values())
    counts = [count for deployment in deployments for count in deployment.replica_states.items()]
    return AppReport(
        num_ready=sum(number for state, number in counts if state == RUNNING),
        num_wanted=sum(number for state, number in counts if state != STOPPING),
        message=root_message([*(deployment.message for deployment in deployments), app.message]),
    )
