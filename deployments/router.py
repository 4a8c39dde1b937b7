"""Router: the OpenAI surface as a Serve ingress."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

from deployments.connections import Connect
from deployments.gateway import Gateway
from deployments.load import ServeReplicas
from deployments.meter import ServedMeter
from deployments.model_app import model_handle
from deployments.remote import RemoteModel
from router.http import build_app
from router.table import RouteTable

# A router that joins a running cluster needs a moment; one that starts with it should not wait for weights.
SETTLE_S = 10.0


class Router:
    """`open_way` leads to an application's model; None: `connect`."""

    def __init__(self, max_body_bytes: int, open_way: Connect | None = None) -> None:
        self._gateway = Gateway(open_way or connect, max_body_bytes, ServeReplicas(), ServedMeter())
        self._is_set_up = False

    def __serve_build_asgi_app__(self) -> FastAPI:
        # Serve sets a request id of its own on every response.
        return build_app(self._gateway, echo_request_id=False)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve delivers a changed route table here, without a restart."""
        is_first = not self._is_set_up
        await self._gateway.install(RouteTable.model_validate(user_config))
        self._is_set_up = True
        if is_first:  # Serve sends requests once this returns, and to them an unasked expert would be masked
            await self._gateway.settle(SETTLE_S)

    async def open_calls(self) -> dict[str, int]:
        return self._gateway.open_calls

    async def learn_quarantine(self, digest: str) -> None:
        """Another router found a prompt that takes replicas down."""
        self._gateway.quarantine.learn(digest)

    async def check_health(self) -> None:
        """Async, so that a blocked event loop fails it; the models' health is their own."""

    async def close(self) -> None:
        await self._gateway.close()


async def connect(app: str) -> RemoteModel:
    """The application's model, whether or not a replica is up.

    Raises:
        ModelUnavailable: there is no such application yet.
    """
    return RemoteModel(app, await model_handle(app))
