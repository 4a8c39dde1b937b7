"""The OpenAI HTTP surface: routes, a limit on what comes in, one error envelope for whatever goes wrong."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from router.admission import Admission
from router.chat import Answer, ChatAnswer, TextAnswer, jobs, token_counts
from router.decode import Decoder
from router.edge import HEALTH, Edge, error_headers, error_response, json_response
from router.errors import (
    BodyTooLarge,
    InvalidRequest,
    ModelUnavailable,
    RequestError,
    RouterError,
    UnknownModel,
)
from router.keys import find_key, permitted
from router.load import ModelLoad
from router.model import Models, Piece
from router.openai import AnswerRequest, AnyRequest, ChatRequest, CompletionRequest, parse
from router.openapi import document
from router.quarantine import Quarantine
from router.routes import Routes, State
from router.stream import EventStream, envelope, interleave, while_connected
from router.table import META, RouteTable
from router.timing import Meter

MAX_QUOTED = 256  # characters of what a client sent, in a message to it

logger = logging.getLogger(__name__)


class Gateway(Routes, Protocol):
    """What the surface needs to know of the cluster; every request reads it anew."""

    @property
    def table(self) -> RouteTable: ...
    @property
    def models(self) -> Models: ...
    @property
    def admission(self) -> Admission: ...
    @property
    def quarantine(self) -> Quarantine: ...
    @property
    def meter(self) -> Meter: ...
    @property
    def max_body_bytes(self) -> int: ...
    async def load(self) -> Mapping[str, ModelLoad | None]:
        """How busy each model of the table is, the meta among them; None where it does not say."""
        ...


def build_app(gateway: Gateway, *, echo_request_id: bool = True) -> FastAPI:
    """The app to serve; without `echo_request_id` the server in front puts `x-request-id` on responses.

    Ray Serve does, and would send the header twice.
    """
    endpoints = _Endpoints(gateway)
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    for method, path, endpoint in (
        ("POST", "/v1/chat/completions", endpoints.chat),
        ("POST", "/v1/completions", endpoints.complete),
        ("POST", "/v1/route", endpoints.route),
        ("GET", "/v1/models", endpoints.models),
        ("GET", "/v1/models/{model_id:path}", endpoints.model),
        ("GET", "/openapi.json", endpoints.document),
        ("GET", "/stats", endpoints.stats),
        ("GET", HEALTH, endpoints.health),
    ):
        app.add_api_route(path, endpoint, methods=[method], response_model=None)
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Edge, table_of=lambda: gateway.table, echo_request_id=echo_request_id)
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
        table = self._permitted(request)
        answer = answer_kind(asked, table, request.state.key)
        decoder = self._decoder(table)
        items = interleave([decoder.decode(job) for job in answer.jobs])
        if asked.stream:
            return EventStream(answer.events(items), request.state.request_id, table.heartbeat_s)
        return json_response(await while_connected(request.receive, answer.body(items)))

    async def route(self, request: Request) -> Response:
        """Where a conversation would go; nothing is generated."""
        asked = await self._read(request, ChatRequest)
        table = self._permitted(request)
        job = jobs(asked, table, f"route-{uuid.uuid4().hex}", request.state.key)[0]
        if not job.target.routed:
            param = "routing.force" if job.routing.force else "model"
            raise InvalidRequest(f"'{job.target.writer}' is addressed directly: nothing to decide", param)
        decoder = self._decoder(table)
        piece = await while_connected(request.receive, decoder.distribution(job))
        return json_response(
            {"object": "routing.distribution", "model": asked.model or table.name, **_decision(piece)}
        )

    def _decoder(self, table: RouteTable) -> Decoder:
        gateway = self._gateway
        return Decoder(
            table,
            gateway.models,
            gateway,
            admission=gateway.admission,
            quarantine=gateway.quarantine,
            meter=gateway.meter,
        )

    async def models(self, request: Request) -> Response:
        table = self._permitted(request)
        return json_response(
            {"object": "list", "data": [self._model(table, name) for name in table.model_ids]}
        )

    async def model(self, request: Request, model_id: str) -> Response:
        table = self._permitted(request)
        if model_id not in table.model_ids:
            raise UnknownModel(f"model '{model_id[:MAX_QUOTED]}' does not exist", "model")
        return json_response(self._model(table, model_id))

    def _model(self, table: RouteTable, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": table.name}

    async def health(self) -> Response:
        table = self._gateway.table
        experts = {name: self._gateway.state(name) for name in table.experts}
        picture = {"epoch": table.epoch, "experts": experts}
        if self._gateway.state(META) is State.READY:
            return json_response({"status": "ok", **picture})
        error = ModelUnavailable("the meta does not answer yet")
        body = {"status": "unavailable", **picture, **envelope(error)}
        return json_response(body, error.status, error_headers(error))

    async def stats(self, request: Request) -> Response:
        table, loads = self._permitted(request), await self._gateway.load()
        known = {name: load for name, load in loads.items() if name == META or name in table.experts}
        models = {name: None if load is None else asdict(load) for name, load in known.items()}
        by_app = self._gateway.admission.load()
        lines = {name: by_app[app] for name in known if (app := table.app(name)) in by_app}
        return json_response({"epoch": table.epoch, "models": models, "admission": lines})

    async def document(self) -> Response:
        return json_response(self._document)

    @cached_property
    def _document(self) -> dict[str, Any]:
        return document()

    def _permitted(self, request: Request) -> RouteTable:
        """The table for whoever asks; looked up anew, for keys may have changed while the body came in."""
        table = self._gateway.table
        return permitted(table, find_key(table.keys, request.headers.get("authorization")))

    async def _read(self, request: Request, kind: type[AnyRequest]) -> AnyRequest:
        """The body, parsed; cut off at the limit whatever its headers promise."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._gateway.max_body_bytes:
                raise BodyTooLarge(f"the body is larger than {self._gateway.max_body_bytes} bytes")
        return parse(kind, bytes(body))


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    if error.status >= 500:
        logger.warning("request %s failed: %s", request.state.request_id, error)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """What the framework found: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    named = RequestError(f"{error.detail}: {request.method} {request.url.path[:MAX_QUOTED]}")
    return json_response(envelope(named), error.status_code, dict(error.headers or {}))


def _decision(piece: Piece) -> dict[str, Any]:
    experts = sorted((piece.distribution or {}).items(), key=lambda pair: -pair[1])
    return {
        "decision": piece.expert,
        "experts": [{"name": name, "probability": probability} for name, probability in experts],
        "word_probability": max(0.0, 1.0 - sum(probability for _, probability in experts)),
        "usage": token_counts(piece.num_prompt_tokens or 0, 0),
    }
