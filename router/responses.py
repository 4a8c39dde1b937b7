"""The shapes of what the router answers, for the OpenAPI document.

The answers themselves are built as plain dicts, since a stream has one for every token.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema

from router.load import ModelLoad
from router.routes import State


class Shape(BaseModel):
    """What the router sends; further fields may come, so clients ignore those they do not know."""


class Error(Shape):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class ErrorResponse(Shape):
    error: Error


class TokenCounts(Shape):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ModelUsage(Shape):
    calls: int
    prompt_tokens: int
    completion_tokens: int


class Usage(TokenCounts):
    models: dict[str, ModelUsage]


class Writer(Shape):
    model: str


class Span(Shape):
    model: str
    text: str
    num_tokens: int
    probability: float | None


class CallTiming(Shape):
    """One call of a model: waiting in the router, on the way, waiting in the engine, and so on, in order."""

    model: str
    queue_ms: float
    hop_ms: float
    engine_queue_ms: float
    prefill_ms: float
    decode_ms: float
    decision_ms: float
    relay_ms: float
    lost_ms: float


class Timing(Shape):
    first_text_ms: float | None
    total_ms: float
    calls: list[CallTiming]


class Trace(Shape):
    spans: list[Span]
    timing: Timing


class Choice(Shape):
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"]
    routing: Trace | SkipJsonSchema[None] = None


class AssistantMessage(Shape):
    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Choice):
    message: AssistantMessage


class TextChoice(Choice):
    text: str


class PartChoice(Shape):
    index: int
    logprobs: None
    finish_reason: Literal["stop", "length"] | None


class ChatDelta(Shape):
    role: Literal["assistant"] | SkipJsonSchema[None] = None
    content: str | SkipJsonSchema[None] = None


class ChatPartChoice(PartChoice):
    delta: ChatDelta


class TextPartChoice(PartChoice):
    text: str


class Stamped(Shape):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(Stamped):
    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class TextCompletion(Stamped):
    object: Literal["text_completion"]
    choices: list[TextChoice]
    usage: Usage


class Chunk(Stamped):
    """`usage` comes last and only where it was asked for; `routing` where the trace was."""

    usage: Usage | None = None
    routing: Writer | Trace | SkipJsonSchema[None] = None


class ChatChunk(Chunk):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatPartChoice]


class TextChunk(Chunk):
    object: Literal["text_completion"]
    choices: list[TextPartChoice]


class ExpertProbability(Shape):
    name: str
    probability: float


class RoutingDistribution(Shape):
    object: Literal["routing.distribution"]
    model: str
    decision: str | None
    experts: list[ExpertProbability]
    word_probability: float
    usage: TokenCounts


class ModelCard(Shape):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Shape):
    object: Literal["list"]
    data: list[ModelCard]


class Health(Shape):
    status: Literal["ok", "unavailable"]
    epoch: int
    experts: dict[str, State]
    error: Error | SkipJsonSchema[None] = None


class Line(Shape):
    """What this router has at a model and in line for it; the mean of how long an answer is under way."""

    num_running: int
    num_waiting: int
    mean_hold_s: float | None


class Stats(Shape):
    epoch: int
    models: dict[str, ModelLoad | None]
    admission: dict[str, Line]


class Document(Shape):
    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
