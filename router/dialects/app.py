"""The ASGI app: the routes of every dialect, and the envelope of the dialect for every error."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from fastapi import Request, Response
from starlette.exceptions import HTTPException

from router.api.completion_models import (
    ChatCompletion,
    ChatCompletionChunk,
    TextCompletion,
    TextCompletionChunk,
)
from router.api.dialect import OPENAI, Dialect
from router.api.endpoints import Endpoints
from router.api.fields.feedback import FeedbackRequest
from router.api.gateway import Gateway
from router.api.middleware import (
    HEALTH_PATHS,
    CorsMiddleware,
    RequestMiddleware,
    error_response,
    json_response,
)
from router.api.request_trace import TraceMiddleware
from router.api.requests import ChatRequest, CompletionRequest
from router.api.response_models import (
    FeedbackReceipt,
    HealthResponse,
    KeyUsageList,
    ModelCard,
    ModelList,
    OpenApiDocument,
    RoutingDistribution,
    StatsResponse,
    VersionResponse,
)
from router.api.status import MAX_QUOTED, StatusEndpoints
from router.api.tasks.embedding_request import EmbeddingsRequest
from router.api.tasks.endpoints import TaskEndpoints
from router.api.tasks.requests import DetokenizeRequest, TokenizeRequest
from router.api.tasks.response_models import DetokenizedText, EmbeddingList, TokenizedText
from router.dialects.messages.endpoints import MessageEndpoints
from router.dialects.messages.errors import MESSAGES
from router.dialects.messages.request import CountTokensRequest, MessagesRequest
from router.dialects.messages.response_models import MessageEvent, MessageTokensCount, WrittenMessage
from router.dialects.openapi import GET_ERRORS, DocumentedApp
from router.dialects.responses.endpoints import ResponsesEndpoints
from router.dialects.responses.errors import RESPONSES
from router.dialects.responses.models import InputTokenCount, ResponseBody, ResponseEvent
from router.dialects.responses.request import ResponsesRequest
from router.errors import RequestError, RouterError
from router.media.loader import MediaLoader

# By the beginning of their paths; every other path is OpenAI's.
DIALECTS: Mapping[str, Dialect] = {"/v1/responses": RESPONSES, "/v1/messages": MESSAGES}

logger = logging.getLogger(__name__)


def build_app(
    gateway: Gateway, *, echo_request_id: bool = True, media: MediaLoader | None = None
) -> DocumentedApp:
    """The ASGI app.

    Args:
        echo_request_id: Whether responses get an `x-request-id` header. Ray Serve adds one itself.
        media: Loads pictures. None: one of its own.
    """
    app, endpoints = DocumentedApp(), Endpoints(gateway, media)
    _add_completions(app, endpoints)
    _add_responses(app, ResponsesEndpoints(endpoints))
    _add_messages(app, MessageEndpoints(endpoints))
    _add_tasks(app, TaskEndpoints(endpoints))
    _add_status(app, StatusEndpoints(gateway))
    app.add_exception_handler(RouterError, _router_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(
        RequestMiddleware,
        table_of=lambda: gateway.table,
        dialect_of=dialect_of,
        limits=gateway.limits,
        echo_request_id=echo_request_id,
    )
    app.add_middleware(TraceMiddleware, tracer_of=lambda: gateway.tracer)
    app.add_middleware(
        CorsMiddleware, table_of=lambda: gateway.table
    )  # the last one added is the first to run
    return app


def dialect_of(path: str) -> Dialect:
    """The dialect of a path, whether or not there is such a path."""
    found = (dialect for root, dialect in DIALECTS.items() if path == root or path.startswith(f"{root}/"))
    return next(found, OPENAI)


def _add_completions(app: DocumentedApp, endpoints: Endpoints) -> None:
    chat, text = endpoints.create_chat_completion, endpoints.create_completion
    app.add("/v1/chat/completions", chat, ChatCompletion, ChatRequest, chunk=ChatCompletionChunk)
    app.add("/v1/completions", text, TextCompletion, CompletionRequest, chunk=TextCompletionChunk)
    app.add("/v1/route", endpoints.route, RoutingDistribution, ChatRequest)
    app.add("/v1/feedback", endpoints.feedback, FeedbackReceipt, FeedbackRequest)
    app.add("/openapi.json", endpoints.openapi, OpenApiDocument)


def _add_responses(app: DocumentedApp, endpoints: ResponsesEndpoints) -> None:
    create, count = endpoints.create_response, endpoints.count_input_tokens
    app.add("/v1/responses", create, ResponseBody, ResponsesRequest, chunk=ResponseEvent, dialect=RESPONSES)
    app.add("/v1/responses/input_tokens", count, InputTokenCount, ResponsesRequest, dialect=RESPONSES)


def _add_messages(app: DocumentedApp, endpoints: MessageEndpoints) -> None:
    create, count = endpoints.create_message, endpoints.count_tokens
    app.add("/v1/messages", create, WrittenMessage, MessagesRequest, chunk=MessageEvent, dialect=MESSAGES)
    app.add("/v1/messages/count_tokens", count, MessageTokensCount, CountTokensRequest, dialect=MESSAGES)


def _add_tasks(app: DocumentedApp, endpoints: TaskEndpoints) -> None:
    app.add("/tokenize", endpoints.tokenize, TokenizedText, TokenizeRequest)
    app.add("/detokenize", endpoints.detokenize, DetokenizedText, DetokenizeRequest)
    app.add("/v1/embeddings", endpoints.embed, EmbeddingList, EmbeddingsRequest)


def _add_status(app: DocumentedApp, status: StatusEndpoints) -> None:
    app.add("/v1/models", status.list_models, ModelList)
    app.add("/v1/models/{model_id:path}", status.retrieve_model, ModelCard, statuses=(*GET_ERRORS, 404))
    app.add("/stats", status.stats, StatsResponse)
    app.add("/keys/usage", status.key_usage, KeyUsageList, statuses=(*GET_ERRORS, 503))
    app.add("/version", status.version, VersionResponse)
    for path, name in HEALTH_PATHS.items():
        app.add(path, status.health, HealthResponse, name=name, statuses=(429, 500, 503), security=[])


async def _router_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RouterError)
    if error.status >= 500:
        logger.warning("request %s failed: %s", request.state.request_id, error)
    return error_response(error, request.state.dialect, request.state.request_id)


async def _http_error(request: Request, error: Exception) -> Response:
    """An error of the framework: an unknown path or a wrong method."""
    assert isinstance(error, HTTPException)
    detail = f"{error.detail}: {request.method} {request.url.path[:MAX_QUOTED]}"
    body = request.state.dialect.envelope(_HttpError(detail, error.status_code), request.state.request_id)
    return json_response(body, error.status_code, dict(error.headers or {}))


class _HttpError(RequestError):
    """An error with the status that the framework chose."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status
