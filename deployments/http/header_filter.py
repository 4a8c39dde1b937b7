"""Removes, before Serve's proxy reads a request, the headers with which a client could control Serve.

Serve obeys some headers before the router sees the request, and answers 500 if one that it reads is not text.
RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names this module in the environment of every node.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from deployments.http import protocol
from router.api.middleware import FORBIDDEN_HEADERS, REQUEST_ID

# Besides those that the router refuses, two for which the proxy creates a new handle for every value.
REMOVED_HEADERS = frozenset({*FORBIDDEN_HEADERS, "serve-multiplexed-model-id", "x-session-id"})


def middlewares() -> list[Middleware]:
    """Serve calls this just before it starts uvicorn, in its proxy and in the router's replica."""
    protocol.install()
    return [Middleware(HeaderFilter)]


class HeaderFilter:
    """Passes all other headers on, and a request id only if it can go into headers and logs unchanged."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if _may_pass(*pair)]}
        await self._app(scope, receive, send)


def _may_pass(name: bytes, value: bytes) -> bool:
    if not name.isascii():
        return False
    # Serve treats dashes and underscores alike, because some gateways turn one into the other.
    plain = name.decode().lower().replace("_", "-")
    if plain == "x-request-id":
        return REQUEST_ID.fullmatch(value.decode("latin-1")) is not None
    return plain not in REMOVED_HEADERS
