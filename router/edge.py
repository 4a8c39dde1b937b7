"""The edge of the HTTP surface: what happens to every request before a route sees it."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.errors import InvalidRequest, RouterError, Unauthorized
from router.key_limits import KeyLimits
from router.keys import find_key
from router.stream import envelope, to_json
from router.table import RouteTable

HEALTH = "/healthz"

# Ray Serve's proxy obeys these before the router sees them: with one a client could leave without being
# noticed, with the other outstay the server's deadline. They cannot be taken back, so they are not served.
PROXY_HEADERS = ("x-request-disconnect-disabled", "x-request-timeout-seconds")

# What can go into headers and logs as it is.
REQUEST_ID = re.compile("[A-Za-z0-9._-]{1,128}")

logger = logging.getLogger(__name__)


class Edge:
    """Gives every request its id, and turns what nobody handled into a 500 without internals.

    Every path but `HEALTH` needs a key once the table has some, also those that no route serves. A request is
    admitted before its body is read, and counts until its answer has ended.
    """

    def __init__(self, app: ASGIApp, table_of: Callable[[], RouteTable], echo_request_id: bool) -> None:
        self._app = app
        self._table_of = table_of
        self._limits = KeyLimits()
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        began_s = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {}).update(request_id=request_id, key="")
        started = False

        async def send_stamped(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                headers["openai-processing-ms"] = str(round((time.perf_counter() - began_s) * 1000))
                if self._echo_request_id:
                    headers["x-request-id"] = request_id
            await send(message)

        try:
            with self._admitted(scope):
                await self._app(scope, receive, send_stamped)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", request_id)
        except Exception as error:
            if not isinstance(error, RouterError):
                logger.exception("request %s failed", request_id)
                error = RouterError("the server had an internal error")
            if started:
                # The proxy logs what it gets, message and all.
                raise error from None
            await error_response(error)(scope, receive, send_stamped)

    @contextmanager
    def _admitted(self, scope: Scope) -> Iterator[None]:
        # Probes have no key, and must be answered when nobody else is.
        if scope["path"] == HEALTH:
            yield
            return
        table, headers = self._table_of(), Headers(scope=scope)
        key = find_key(table.keys, headers.get("authorization"))
        for name in PROXY_HEADERS:
            if name in headers:
                raise InvalidRequest(f"the header {name} is not served: send the request without it")
        scope["state"]["key"] = key.name if key else ""
        with self._limits.request(key, table.limits.max_requests):
            yield


def error_response(error: RouterError) -> Response:
    """OpenAI's envelope, with the headers that belong to the status."""
    return json_response(envelope(error), error.status, error_headers(error))


def error_headers(error: RouterError) -> dict[str, str]:
    headers = {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}
    return {**headers, "www-authenticate": "Bearer"} if isinstance(error, Unauthorized) else headers


def json_response(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def _request_id(scope: Scope) -> str:
    """The client's own, if it can go into headers and logs as it is."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
