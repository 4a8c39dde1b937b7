"""The OpenAI-compatible HTTP API: its routes, and OpenAI's error envelope for every error."""

from __future__ import annotations

import logging
import uuid
from functools import partial
from typing import Any

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from router.api.answers import Answer, ChatAnswer, TextAnswer, token_counts
from router.api.body import parse, parse_feedback, read_body
from router.api.completion_models import (
    ChatCompletion,
    ChatCompletionChunk,
    TextCompletion,
    TextCompletionChunk,
)
from router.api.fields.feedback import FeedbackRequest
from router.api.gateway import Gateway, permitted_table
from router.api.generations import generations, require_one_vocabulary
from router.api.middleware import (
    HEALTH_PATHS,
    CorsMiddleware,
    RequestMiddleware,
    error_response,
    json_response,
)
from router.api.openapi import GET_ERRORS, DocumentedApp
from router.api.request_trace import TraceMiddleware, describe_request
from router.api.requests import AnswerRequest, AnyRequest, ChatRequest, CompletionRequest
from router.api.response_models import (
    FeedbackReceipt,
    HealthResponse,
    ModelCard,
    ModelList,
    OpenApiDocument,
    RoutingDistribution,
    StatsResponse,
    VersionResponse,
)
from router.api.sse import EventStream, envelope, while_connected
from router.api.status import MAX_QUOTED, StatusEndpoints
from router.decoding.decode import Decoder
from router.errors import InvalidRequest, RequestError, RouterError
from router.model_port import ModelChunk
from router.table import RouteTable

logger = logging.getLogger(__name__)


def build_app(gateway: Gateway, *, echo_request_id: bool = True) -> DocumentedApp:
    """The ASGI app.

    Args:
        echo_request_id: Whether responses get an `x-request-id` header. Ray Serve adds one itself.
    """
    app, endpoints, status = DocumentedApp(), _Endpoints(gateway), StatusEndpoints(gateway)
    chat, text = endpoints.create_chat_completion, endpoints.create_completion
    app.add("/v1/chat/completions", chat, ChatCompletion, ChatRequest, chunk=ChatCompletionChunk)
    app.add("/v1/completions", text, TextCompletion, CompletionRequest, chunk=TextCompletionChunk)
    app.add("/v1/route", endpoints.route, RoutingDistribution, ChatRequest)
    app.add("/v1/feedback", endpoints.feedback, FeedbackReceipt, FeedbackRequest)
    app.add("/v1/models", status.list_models, ModelList)
    app.add("/v1/models/{model_id:path}", status.retrieve_model, ModelCard, statuses=(*GET_ERRORS, 404))
    app.add("/stats", status.stats, StatsResponse)
    app.add("/openapi.json", endpoints.openapi, OpenApiDocument)
    app.add("/version", status.version, VersionResponse)
    for path, name in HEALTH_PATHS.items():
        app.add(path, status.health, HealthResponse, name=name, statuses=(429, 500, 503), security=[])
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(RequestMiddleware, table_of=lambda: gateway.table, echo_request_id=echo_request_id)
    app.add_middleware(TraceMiddleware, tracer_of=lambda: gateway.tracer)
    app.add_middleware(
        CorsMiddleware, table_of=lambda: gateway.table
    )  # the last one added is the first to run
    return app


class _Endpoints:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    async def create_chat_completion(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self._answer(request, ChatRequest, ChatAnswer)

    async def create_completion(self, request: Request) -> Response:
        """Continue a text."""
        return await self._answer(request, CompletionRequest, TextAnswer)

    async def _answer(
        self, request: Request, kind: type[AnswerRequest], answer_kind: type[Answer]
    ) -> Response:
        body, table = await self._read(request, kind)
        answer = answer_kind(body, table, request.state.key)
        field = "n" if body.n > 1 else "prompt"
        require_one_vocabulary(body, answer.generations, table, self._gateway.vocabulary)
        request.state.open_request.count_choices(len(answer.generations), field)
        describe_request(body, body.model or table.name, answer.id)
        decoder = self._decoder(table)
        streams = [decoder.decode(generation) for generation in answer.generations]
        if body.stream:
            write_events = partial(answer.write_events, streams)
            return EventStream(write_events, request.state.request_id, table.heartbeat_s)
        return json_response(await while_connected(request.receive, answer.body(streams)))

    async def route(self, request: Request) -> Response:
        """Show which expert would answer, without generating."""
        body, table = await self._read(request, ChatRequest)
        answer_id = f"route-{uuid.uuid4().hex}"
        generation = generations(body, table, answer_id, request.state.key)[0]
        describe_request(body, body.model or table.name, answer_id)
        require_one_vocabulary(body, [generation], table, self._gateway.vocabulary)
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
            recorder=gateway.recorder,
        )

    async def feedback(self, request: Request) -> Response:
        """Say which expert should have answered, so that decisions can be judged and learned from."""
        body = parse_feedback(await self._body(request))
        table = permitted_table(self._gateway, request)
        name = body.right_expert
        if name is not None and name not in table.experts and name not in table.shadows:
            known = ", ".join((*table.experts, *table.shadows)) or "none"
            raise InvalidRequest(f"right_expert: no expert named '{name}'; experts: {known}", "right_expert")
        verdict, is_logged = self._gateway.recorder.feedback(body.id, name, request.state.key)
        return json_response({"object": "feedback", "id": body.id, "verdict": verdict, "logged": is_logged})

    async def openapi(self, request: Request) -> Response:
        """Get this document."""
        return json_response(request.app.openapi())

    async def _read(self, request: Request, kind: type[AnyRequest]) -> tuple[AnyRequest, RouteTable]:
        """The request, and the route table that it may use."""
        body = parse(kind, await self._body(request))
        table = permitted_table(self._gateway, request)
        if isinstance(body, ChatRequest) and body.chat_template and not table.allow_chat_template:
            raise InvalidRequest(
                "chat_template is not allowed here: leave it out, or ask the operator of this cluster to set "
                "http.allow_chat_template",
                "chat_template",
                "unsupported_parameter",
            )
        return body, table

    async def _body(self, request: Request) -> bytes:
        coding = request.headers.get("content-encoding", "")
        return await read_body(request.stream(), coding, self._gateway.max_body_bytes)


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
