"""What every request passes before its endpoint: CORS, request id, API key, limits; and the error handler."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.dialect import Dialect
from router.api.key_limits import HEADERS, KeyLimits
from router.api.keys import find_key, key_digest
from router.api.sse import to_json
from router.errors import InvalidRequest, RouterError, Unauthorized
from router.table import RouteTable

# The health check, under the names that other servers and their monitors have for it, with the names of the
# operations. Probes have no API key.
HEALTH_PATHS = {"/healthz": "health", "/health": "vllm_health", "/ping": "ping"}

# Ray Serve's proxy acts on these headers before the router sees them: the first hides that a client has
# disconnected, the second overrides the server's deadline. The router cannot undo that, so it refuses them.
FORBIDDEN_HEADERS = ("x-request-disconnect-disabled", "x-request-timeout-seconds")

# The headers of a response that a script in a web page may read.
EXPOSED_HEADERS = (
    *("x-request-id", "request-id", "retry-after", "openai-processing-ms"),
    *(f"x-ratelimit-{what}-{name}" for name, _ in HEADERS for what in ("limit", "remaining", "reset")),
)

# Safe to copy into headers and logs.
REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")

logger = logging.getLogger(__name__)


class RequestMiddleware:
    """Gives every request an id and a slot in the limits, and every error the envelope of its dialect.

    An unexpected error becomes a 500 that reveals no internals. If the cluster has API keys, every path
    except `HEALTH_PATHS` needs one, even an unknown path. A request is checked before its body is read, and
    counts as open until its answer has ended.

    It sets `state.request_id` and `state.dialect`; for other paths than `HEALTH_PATHS` also `state.key`, the
    name of the API key (or empty), `state.key_digest`, for `find_key`, and `state.open_request`, which counts
    the choices.
    """

    def __init__(
        self,
        app: ASGIApp,
        table_of: Callable[[], RouteTable],
        dialect_of: Callable[[str], Dialect],
        limits: KeyLimits,
        echo_request_id: bool,
    ) -> None:
        self._app = app
        self._table_of = table_of
        self._dialect_of = dialect_of
        self._limits = limits
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began_s = time.perf_counter()
        is_head = scope["method"] == "HEAD"
        if is_head:  # answered as a GET, without its body
            scope = {**scope, "method": "GET"}
        request_id, dialect = _request_id(scope), self._dialect_of(scope["path"])
        scope.setdefault("state", {}).update(request_id=request_id, dialect=dialect)
        has_status = False

        async def send_with_headers(message: Message) -> None:
            nonlocal has_status
            if message["type"] == "http.response.start":
                has_status = True
                headers = MutableHeaders(scope=message)
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began_s) * 1000))
                headers.update(self._own_headers(scope))
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        try:
            async with self._admitted(scope):
                await self._app(scope, receive, send_with_headers)
        except ClientDisconnect:
            logger.debug("request %s: the client disconnected", request_id)
        except Exception as error:
            if not isinstance(error, RouterError):
                logger.exception("request %s failed", request_id)
                error = RouterError("internal server error")
            if has_status:
                # Without the cause, whose message may quote the request: the server logs what it is given.
                raise error from None
            await error_response(error, dialect, request_id)(scope, receive, send_with_headers)

    @asynccontextmanager
    async def _admitted(self, scope: Scope) -> AsyncIterator[None]:
        # Health probes have no API key, and a router that is full is still healthy.
        if scope["path"] in HEALTH_PATHS:
            yield
            return
        table, headers = self._table_of(), Headers(scope=scope)
        digest = key_digest(headers)
        key = find_key(table.keys_by_digest, digest)
        for name in FORBIDDEN_HEADERS:
            if name in headers:
                raise InvalidRequest(f"the header {name} is not allowed: send the request without it")
        scope["state"].update(key=key.name if key else "", key_digest=digest)
        async with self._limits.request(key, table.limits.max_requests) as open_request:
            scope["state"]["open_request"] = open_request
            yield

    def _own_headers(self, scope: Scope) -> dict[str, str]:
        """The request's id, and the limits of its key."""
        state = scope["state"]
        digest, names = state.get("key_digest"), [state["dialect"].request_id_header]
        if self._echo_request_id:
            names.append("x-request-id")
        key = digest and self._table_of().keys_by_digest.get(digest)
        limits = self._limits.headers(key) if key else {}
        return limits | {name: state["request_id"] for name in names if name}


class CorsMiddleware:
    """Lets web pages of the route table's `cors_origins` use the API. A browser asks first, without a key."""

    def __init__(self, app: ASGIApp, table_of: Callable[[], RouteTable]) -> None:
        self._app = app
        self._table_of = table_of
        self._by_origins: dict[tuple[str, ...], ASGIApp] = {(): app}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app_for(self._origins())(scope, receive, send)

    def _origins(self) -> tuple[str, ...]:
        try:
            return self._table_of().cors_origins
        except RouterError:  # no table yet: the request gets this error further inside
            return ()

    def _app_for(self, origins: tuple[str, ...]) -> ASGIApp:
        if origins not in self._by_origins:
            guarded = CORSMiddleware(
                self._app,
                allow_origins=origins,
                allow_methods=("GET", "HEAD", "POST"),
                allow_headers=("*",),
                expose_headers=EXPOSED_HEADERS,
            )
            self._by_origins = {(): self._app, origins: guarded}
        return self._by_origins[origins]


def error_response(error: RouterError, dialect: Dialect, request_id: str) -> Response:
    """The error in the envelope of the dialect, with the headers of its status."""
    return json_response(dialect.envelope(error, request_id), error.status, error_headers(error))


def error_headers(error: RouterError) -> dict[str, str]:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return {**headers, "www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else headers


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def _request_id(scope: Scope) -> str:
    """The client's own id if it is safe to copy, otherwise a new one."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
