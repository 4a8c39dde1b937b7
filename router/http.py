"""The OpenAI HTTP surface: routes, a limit on what comes in, one error envelope for whatever goes wrong."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from router.chat import Answer, ChatAnswer, TextAnswer, jobs, token_counts
from router.decode import Decoder
from router.errors import (
    BodyTooLarge,
    InvalidRequest,
    ModelUnavailable,
    RequestError,
    RouterError,
    UnknownModel,
)
from router.load import ModelLoad
from router.model import Models, Piece
from router.openai import AnswerRequest, AnyRequest, ChatRequest, CompletionRequest, parse
from router.routes import Routes, State
from router.stream import EventStream, envelope, interleave, to_json, while_connected
from router.table import META, RouteTable

logger = logging.getLogger(__name__)


class Gateway(Routes, Protocol):
    """What the surface needs to know of the cluster; every request reads it anew."""

    @property
    def table(self) -> RouteTable: ...
    @property
    def models(self) -> Models: ...
    @property
    def max_body_bytes(self) -> int: ...
    async def load(self) -> Mapping[str, ModelLoad | None]:
        """How busy each model of the table is, the meta among them; None where it does not say."""
        ...


def build_app(gateway: Gateway, *, echo_request_id: bool = True) -> FastAPI:
    """The app to serve; without `echo_request_id` the server in front puts `x-request-id` on responses.

    Ray Serve's proxy does, and would send the header twice.
    """
    endpoints = _Endpoints(gateway)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for method, path, endpoint in (
        ("POST", "/v1/chat/completions", endpoints.chat),
        ("POST", "/v1/completions", endpoints.complete),
        ("POST", "/v1/route", endpoints.route),
        ("GET", "/v1/models", endpoints.models),
        ("GET", "/v1/models/{model_id:path}", endpoints.model),
        ("GET", "/healthz", endpoints.health),
        ("GET", "/stats", endpoints.stats),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(_Edge, echo_request_id=echo_request_id)
    return app


class _Endpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started = int(time.time())

    async def chat(self, request: Request) -> Response:
        return await self._answer(request, ChatRequest, ChatAnswer)

    async def complete(self, request: Request) -> Response:
        return await self._answer(request, CompletionRequest, TextAnswer)

    async def _answer(
        self, request: Request, kind: type[AnswerRequest], answer_kind: type[Answer]
    ) -> Response:
        asked = await self._read(request, kind)
        table = self._gateway.table
        answer = answer_kind(asked, table)
        decoder = Decoder(table, self._gateway.models, self._gateway)
        items = interleave([decoder.decode(job) for job in answer.jobs])
        if asked.stream:
            return EventStream(answer.events(items), request.state.request_id, table.heartbeat_s)
        return _json(await while_connected(request.receive, answer.body(items)))

    async def route(self, request: Request) -> Response:
        """Where a conversation would go; nothing is generated."""
        asked = await self._read(request, ChatRequest)
        table = self._gateway.table
        job = jobs(asked, table, f"route-{uuid.uuid4().hex}")[0]
        if not job.target.routed:
            param = "routing.force" if job.routing.force else "model"
            raise InvalidRequest(f"'{job.target.writer}' is addressed directly: nothing to decide", param)
        decoder = Decoder(table, self._gateway.models, self._gateway)
        piece = await while_connected(request.receive, decoder.distribution(job))
        return _json(
            {"object": "routing.distribution", "model": asked.model or table.name, **_decision(piece)}
        )

    async def models(self) -> Response:
        table = self._gateway.table
        return _json({"object": "list", "data": [self._model(table, name) for name in table.model_ids]})

    async def model(self, model_id: str) -> Response:
        table = self._gateway.table
        if model_id not in table.model_ids:
            raise UnknownModel(f"model '{model_id}' does not exist", "model")
        return _json(self._model(table, model_id))

    def _model(self, table: RouteTable, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": table.name}

    async def health(self) -> Response:
        table = self._gateway.table
        experts = {name: self._gateway.state(name) for name in table.experts}
        picture = {"epoch": table.epoch, "experts": experts}
        if self._gateway.state(META) is State.READY:
            return _json({"status": "ok", **picture})
        error = ModelUnavailable("the meta does not answer yet")
        return _json({"status": "unavailable", **picture, **envelope(error)}, error.status, _headers(error))

    async def stats(self) -> Response:
        loads = await self._gateway.load()
        models = {name: None if load is None else asdict(load) for name, load in loads.items()}
        return _json({"epoch": self._gateway.table.epoch, "models": models})

    async def _read(self, request: Request, kind: type[AnyRequest]) -> AnyRequest:
        """The body, parsed; cut off at the limit whatever its headers promise."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._gateway.max_body_bytes:
                raise BodyTooLarge(f"the body is larger than {self._gateway.max_body_bytes} bytes")
        return parse(kind, bytes(body))


class _Edge:
    """Gives every request its id, and turns what nobody handled into a 500 without internals."""

    def __init__(self, app: ASGIApp, echo_request_id: bool) -> None:
        self._app = app
        self._echo_request_id = echo_request_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                if self._echo_request_id:
                    MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientDisconnect:
            logger.debug("request %s: the client went away", request_id)
        except Exception:
            if started:
                raise
            logger.exception("request %s failed", request_id)
            response = _error_response(RouterError("the server had an internal error"))
            await response(scope, receive, send_with_id)


def _request_id(scope: Scope) -> str:
    """The client's own, if it can go into headers and logs as it is."""
    given = Headers(scope=scope).get("x-request-id", "")
    return given if re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given) else uuid.uuid4().hex


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    if error.status >= 500:
        logger.warning("request %s failed: %s", request.state.request_id, error)
    return _error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework found: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    named = RequestError(f"{error.detail}: {request.method} {request.url.path}")
    return _json(envelope(named), error.status_code, dict(error.headers or {}))


def _error_response(error: RouterError) -> Response:
    return _json(envelope(error), error.status, _headers(error))


def _headers(error: RouterError) -> dict[str, str]:
    return {} if error.retry_after_s is None else {"retry-after": str(error.retry_after_s)}


def _json(content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers, "application/json")


def _decision(piece: Piece) -> dict[str, Any]:
    experts = sorted((piece.distribution or {}).items(), key=lambda pair: -pair[1])
    return {
        "decision": piece.expert,
        "experts": [{"name": name, "probability": probability} for name, probability in experts],
        "word_probability": max(0.0, 1.0 - sum(probability for _, probability in experts)),
        "usage": token_counts(piece.num_prompt_tokens or 0, 0),
    }
