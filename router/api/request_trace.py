"""The span of a client's request, and the trace that all work for the request belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.api.middleware import HEALTH_PATHS
from router.api.requests import AnswerRequest
from router.tracing import CURRENT_TRACE, Attribute, RequestTrace, SpanKind, Tracer, join_or_begin_trace

MAX_PATH_CHARS = 128
NO_RESPONSE = 499  # the client left before the status was sent


class TraceMiddleware:
    """Joins the trace that a client's headers name, or begins one; records it at the end of the response."""

    def __init__(self, app: ASGIApp, tracer_of: Callable[[], Tracer]) -> None:
        self._app = app
        self._tracer_of = tracer_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in HEALTH_PATHS:
            await self._app(scope, receive, send)
            return
        trace = join_or_begin_trace(Headers(scope=scope), self._tracer_of().settings)
        # Not reset: each request has a task of its own.
        CURRENT_TRACE.set(trace)
        if trace is not None and trace.is_recorded:
            await self._recorded(trace, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _recorded(self, trace: RequestTrace, scope: Scope, receive: Receive, send: Send) -> None:
        began_s = time()
        status = NO_RESPONSE

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            trace.attributes |= _http_attributes(scope, status)
            if status >= 500 and trace.error is None:
                trace.error = str(status)
            request = trace.span(_name(scope), SpanKind.SERVER, began_s, time())
            self._tracer_of().record([request, *trace.spans])


def describe_request(body: AnswerRequest, model: str, answer_id: str) -> None:
    """Add what a client asks for to the span of its request, if there is one."""
    trace = CURRENT_TRACE.get()
    if trace is not None and trace.is_recorded:
        trace.attributes |= {
            "gen_ai.request.model": model,
            "gen_ai.response.model": model,
            "gen_ai.response.id": answer_id,
            "gen_ai.request.stream": bool(getattr(body, "stream", False)),
            "gen_ai.request.choice.count": body.n,
        }


def _http_attributes(scope: Scope, status: int) -> Mapping[str, Attribute]:
    attributes: dict[str, Attribute] = {
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "url.path": scope["path"][:MAX_PATH_CHARS],
        "url.scheme": scope.get("scheme", "http"),
        "etr.request_id": scope.get("state", {}).get("request_id", ""),
    }
    if (route := _route(scope)) is not None:
        attributes["http.route"] = route
    if scope.get("server") is not None:
        attributes |= {"server.address": scope["server"][0], "server.port": scope["server"][1] or 0}
    return attributes


def _name(scope: Scope) -> str:
    """Of a small set, so without the parts of a path that clients choose."""
    route = _route(scope)
    return scope["method"] if route is None else f"{scope['method']} {route}"


def _route(scope: Scope) -> str | None:
    path: str | None = getattr(scope.get("route"), "path", None)
    return path
