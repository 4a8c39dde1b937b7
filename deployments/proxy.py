"""What comes before Serve on a request's way: the headers by which a client would rule it are taken away.

Serve obeys some before the router sees the request, and answers 500 where one that it reads is no text. Named
in the environment of every node as RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH.
"""

from __future__ import annotations

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from router.edge import PROXY_HEADERS, REQUEST_ID

# Beside those that the router refuses, two that make the proxy a new handle for every value they have.
RULING = frozenset({*PROXY_HEADERS, "serve-multiplexed-model-id", "x-session-id"})


def middlewares() -> list[Middleware]:
    return [Middleware(OwnHeaders)]


class OwnHeaders:
    """Lets pass what rules nothing; a request id only if it can go into headers and logs as it is."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope = {**scope, "headers": [pair for pair in scope["headers"] if _may_pass(*pair)]}
        await self._app(scope, receive, send)


def _may_pass(name: bytes, value: bytes) -> bool:
    if not name.isascii():
        return False
    # Serve takes dashes and underscores for the same, as some gateways turn one into the other.
    plain = name.decode().lower().replace("_", "-")
    if plain == "x-request-id":
        return REQUEST_ID.fullmatch(value.decode("latin-1")) is not None
    return plain not in RULING
