"""The OpenAI-compatible HTTP API: its routes, and OpenAI's error envelope for every error."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any, Protocol

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine
from router.api.answers import Answer, ChatAnswer, TextAnswer, token_counts
from router.api.completion_models import (
    ChatCompletion,
    ChatCompletionChunk,
    TextCompletion,
    TextCompletionChunk,
)
from router.api.generations import generations
from router.api.keys import find_key, permitted
from router.api.middleware import HEALTH, RequestMiddleware, error_headers, error_response, json_response
from router.api.openapi import GET_ERRORS, DocumentedApp
from router.api.requests import AnswerRequest, AnyRequest, ChatRequest, CompletionRequest, parse
from router.api.response_models import (
    HealthResponse,
    ModelCard,
    ModelList,
    OpenApiDocument,
    RoutingDistribution,
    StatsResponse,
)
from router.api.sse import EventStream, envelope, while_connected
from router.availability import ModelAvailability, ModelState
from router.decoding.decode import Decoder
from router.decoding.timing import Meter
from router.errors import (
    BodyTooLarge,
    InvalidRequest,
    ModelBroken,
    ModelUnavailable,
    RequestError,
    RouterError,
    UnknownModel,
)
from router.load_report import ModelLoad
from router.model_port import ModelChunk, Models
from router.table import META, RouteTable

META_UNAVAILABLE = "the meta does not answer at present"
META_BROKEN = "the meta has failed: its replicas die whatever they are asked; its log says why"
MAX_QUOTED = 256  # characters of a request that an error message repeats

logger = logging.getLogger(__name__)


class Gateway(ModelAvailability, Protocol):
    """The cluster as the HTTP API sees it. Every request reads the current values."""

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
        """The load of the meta and of each expert by name; None if it is unknown."""
        ...


def build_app(gateway: Gateway, *, echo_request_id: bool = True) -> FastAPI:
    """The ASGI app.

    Args:
        echo_request_id: Whether responses get an `x-request-id` header. Ray Serve adds one itself.
    """
    app, endpoints = DocumentedApp(), _Endpoints(gateway)
    chat, text = endpoints.create_chat_completion, endpoints.create_completion
    app.add("/v1/chat/completions", chat, ChatCompletion, ChatRequest, chunk=ChatCompletionChunk)
    app.add("/v1/completions", text, TextCompletion, CompletionRequest, chunk=TextCompletionChunk)
    app.add("/v1/route", endpoints.route, RoutingDistribution, ChatRequest)
    app.add("/v1/models", endpoints.list_models, ModelList)
    app.add("/v1/models/{model_id:path}", endpoints.retrieve_model, ModelCard, statuses=(*GET_ERRORS, 404))
    app.add("/stats", endpoints.stats, StatsResponse)
    app.add("/openapi.json", endpoints.openapi, OpenApiDocument)
    app.add(HEALTH, endpoints.health, HealthResponse, statuses=(429, 500, 503), security=[])
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestMiddleware, table_of=lambda: gateway.table, echo_request_id=echo_request_id)
    return app


class _Endpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started_at_s = int(time.time())

    async def create_chat_completion(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, ChatRequest, ChatAnswer)

    async def create_completion(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, CompletionRequest, TextAnswer)

    async def _answer(
        self, request: Request, kind: type[AnswerRequest], answer_kind: type[Answer]
    ) -> Response:
        body = await self._read(request, kind)
        table = self._permitted(request)
        answer = answer_kind(body, table, request.state.key)
        field = "n" if body.n > 1 else "prompt"
        request.state.open_request.count_choices(len(answer.generations), field)
        decoder = self._decoder(table)
        streams = [decoder.decode(generation) for generation in answer.generations]
        if body.stream:
            write_events = partial(answer.write_events, streams)
            return EventStream(write_events, request.state.request_id, table.heartbeat_s)
        return json_response(await while_connected(request.receive, answer.body(streams)))

    async def route(self, request: Request) -> Response:
        """Show which expert would answer, without generating."""
        body = await self._read(request, ChatRequest)
        table = self._permitted(request)
        generation = generations(body, table, f"route-{uuid.uuid4().hex}", request.state.key)[0]
        if not generation.target.routed:
            param = "routing.force" if generation.routing.force else "model"
            raise InvalidRequest(
                f"{param} names '{generation.target.writer}', so there is nothing to route: leave it out",
                param,
            )
        decoder = self._decoder(table)
        chunk = await while_connected(request.receive, decoder.distribution(generation))
        return json_response(
            {"object": "routing.distribution", "model": body.model or table.name, **_decision(chunk)}
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

    async def list_models(self, request: Request) -> Response:
        """List the models that a client may name."""
        table = self._permitted(request)
        return json_response(
            {"object": "list", "data": [self._model(table, name) for name in table.model_ids]}
        )

    async def retrieve_model(self, request: Request) -> Response:
        """Describe a model."""
        # Not a parameter of this method: FastAPI would document its own response to an invalid one.
        model_id = request.path_params["model_id"]
        table = self._permitted(request)
        if model_id not in table.model_ids:
            raise UnknownModel(
                f"model '{model_id[:MAX_QUOTED]}' does not exist; /v1/models lists those that do", "model"
            )
        return json_response(self._model(table, model_id))

    def _model(self, table: RouteTable, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started_at_s, "owned_by": table.name}

    async def health(self, request: Request) -> Response:
        """Check whether the router can answer."""
        table = self._gateway.table
        experts = {name: self._gateway.state(name) for name in table.experts}
        states = {"table_version": table.table_version, "experts": experts}
        meta = self._gateway.state(META)
        if meta is ModelState.READY:
            return json_response({"status": "ok", **states})
        is_broken = meta is ModelState.FAILED
        error = ModelBroken(META_BROKEN) if is_broken else ModelUnavailable(META_UNAVAILABLE)
        body = {"status": "failed" if is_broken else "unavailable", **states, **envelope(error)}
        return json_response(body, error.status, error_headers(error))

    async def stats(self, request: Request) -> Response:
        """Show how busy the models are."""
        table, loads = self._permitted(request), await self._gateway.load()
        known = {name: load for name, load in loads.items() if name == META or name in table.experts}
        models = {name: None if load is None else asdict(load) for name, load in known.items()}
        by_app = self._gateway.admission.load()
        queues = {name: by_app[app] for name in known if (app := table.app(name)) in by_app}
        return json_response({"table_version": table.table_version, "models": models, "admission": queues})

    async def openapi(self, request: Request) -> Response:
        """Get this document."""
        return json_response(request.app.openapi())

    def _permitted(self, request: Request) -> RouteTable:
        """The current table, with only the experts that the API key may reach.

        Raises:
            Unauthorized: the key was revoked after the request was accepted.
        """
        table = self._gateway.table
        return permitted(table, find_key(table.keys_by_digest, request.state.key_digest))

    async def _read(self, request: Request, kind: type[AnyRequest]) -> AnyRequest:
        """The parsed body. Its size is counted, since `content-length` may be missing or wrong."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._gateway.max_body_bytes:
                raise BodyTooLarge(
                    f"the body is larger than the limit of {self._gateway.max_body_bytes} bytes"
                )
        return parse(kind, bytes(body))


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    if error.status >= 500:
        logger.warning("request %s failed: %s", request.state.request_id, error)
    return error_response(error)


async def _http_error(request: Request, error: Exception) -> Response:
    """An error of the framework: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    request_error = RequestError(f"{error.detail}: {request.method} {request.url.path[:MAX_QUOTED]}")
    return json_response(envelope(request_error), error.status_code, dict(error.headers or {}))


def _decision(chunk: ModelChunk) -> dict[str, Any]:
    experts = sorted((chunk.distribution or {}).items(), key=lambda pair: -pair[1])
    return {
        "decision": chunk.expert,
        "experts": [{"name": name, "probability": probability} for name, probability in experts],
        "word_probability": max(0.0, 1.0 - sum(probability for _, probability in experts)),
        "usage": token_counts(chunk.num_prompt_tokens or 0, 0),
    }
