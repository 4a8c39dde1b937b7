"""What the router sends, for the OpenAPI document. OpenAI's objects are named as in OpenAI's SDK.

Answers are built as plain dicts, not from these models: a stream needs one for every token. The docstrings of
models are part of the document.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from router.availability import ModelState
from router.load_report import ModelLoad


class ResponseModel(BaseModel):
    """Clients should ignore fields that they do not know: later versions may add some."""


class ErrorObject(ResponseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    error: ErrorObject


class TokenUsage(ResponseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class PerModelUsage(ResponseModel):
    calls: int
    prompt_tokens: int
    completion_tokens: int


class CompletionUsage(TokenUsage):
    models: dict[str, PerModelUsage]


class ChunkAuthor(ResponseModel):
    model: str


class TraceSpan(ResponseModel):
    model: str
    text: str
    num_tokens: int
    probability: float | None


class TraceCall(ResponseModel):
    """One call of a model and its phases in order: waiting in the router, on the network, and so on."""

    model: str
    queue_ms: float
    hop_ms: float
    engine_queue_ms: float
    prefill_ms: float
    decode_ms: float
    decision_ms: float
    relay_ms: float
    lost_ms: float


class TraceTiming(ResponseModel):
    first_text_ms: float | None
    total_ms: float
    calls: list[TraceCall]


class RoutingTrace(ResponseModel):
    spans: list[TraceSpan]
    timing: TraceTiming


class CompletionChoice(ResponseModel):
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"]
    routing: RoutingTrace | SkipJsonSchema[None] = None


class ChatCompletionMessage(ResponseModel):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatCompletionChoice(CompletionChoice):
    message: ChatCompletionMessage


class TextCompletionChoice(CompletionChoice):
    text: str


class ChunkChoice(ResponseModel):
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class ChatCompletionDelta(ResponseModel):
    role: Literal["assistant"] | SkipJsonSchema[None] = None
    content: str | SkipJsonSchema[None] = None


class ChatCompletionChunkChoice(ChunkChoice):
    delta: ChatCompletionDelta


class TextCompletionChunkChoice(ChunkChoice):
    text: str


class CompletionBase(ResponseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(CompletionBase):
    object: Literal["chat.completion"]
    choices: list[ChatCompletionChoice]
    usage: CompletionUsage


class TextCompletion(CompletionBase):
    object: Literal["text_completion"]
    choices: list[TextCompletionChoice]
    usage: CompletionUsage


class CompletionChunk(CompletionBase):
    """`usage` is only in the last chunk and only on request; `routing` is there if a trace was requested."""

    usage: CompletionUsage | None = None
    routing: ChunkAuthor | RoutingTrace | SkipJsonSchema[None] = None


class ChatCompletionChunk(CompletionChunk):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatCompletionChunkChoice]


class TextCompletionChunk(CompletionChunk):
    object: Literal["text_completion"]
    choices: list[TextCompletionChunkChoice]


class ExpertProbability(ResponseModel):
    name: str
    probability: float


class RoutingDistribution(ResponseModel):
    object: Literal["routing.distribution"]
    model: str
    decision: str | None
    experts: list[ExpertProbability]
    word_probability: float
    usage: TokenUsage


class ModelCard(ResponseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(ResponseModel):
    object: Literal["list"]
    data: list[ModelCard]


class HealthResponse(ResponseModel):
    status: Literal["ok", "unavailable"]
    table_version: int
    experts: dict[str, ModelState]
    error: ErrorObject | SkipJsonSchema[None] = None


class QueueLoad(ResponseModel):
    """The answers that a model is writing for this router, those that wait for it, and how long one takes."""

    num_running: int
    num_waiting: int
    mean_hold_s: float | None


class StatsResponse(ResponseModel):
    table_version: int
    models: dict[str, ModelLoad | None]
    admission: dict[str, QueueLoad]


class OpenApiDocument(ResponseModel):
    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
