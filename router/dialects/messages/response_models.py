"""What this dialect sends, for the OpenAPI document."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import RootModel
from pydantic.json_schema import SkipJsonSchema

from router.api.completion_models import ChunkAuthor, ResponseModel, RoutingTrace

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class MessagesErrorObject(ResponseModel):
    type: Literal[
        "invalid_request_error",
        "authentication_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "timeout_error",
        "overloaded_error",
        "api_error",
    ]
    message: str


class MessagesErrorResponse(ResponseModel):
    type: Literal["error"]
    error: MessagesErrorObject
    request_id: str


class MessageTokensCount(ResponseModel):
    """The tokens of the prompt for the model that would be called first."""

    input_tokens: int


class MessageUsage(ResponseModel):
    """`input_tokens` are those of the prompt that were read; `cache_read_input_tokens` the others, 0 if the
    cache may hold what other API keys have sent."""

    input_tokens: int
    output_tokens: int
    cache_creation_input_tokens: Literal[0]
    cache_read_input_tokens: int


class WrittenText(ResponseModel):
    type: Literal["text"]
    text: str


class WrittenThinking(ResponseModel):
    """The signature is empty: thoughts are not encrypted."""

    type: Literal["thinking"]
    thinking: str
    signature: Literal[""]


class WrittenToolUse(ResponseModel):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


WrittenBlock = WrittenText | WrittenThinking | WrittenToolUse


class WrittenMessage(ResponseModel):
    """`stop_reason` is null only at the beginning of a stream."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[WrittenBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage
    routing: RoutingTrace | SkipJsonSchema[None] = None


class MessageStart(ResponseModel):
    type: Literal["message_start"]
    message: WrittenMessage


class ContentBlockStart(ResponseModel):
    type: Literal["content_block_start"]
    index: int
    content_block: WrittenBlock


class WrittenTextDelta(ResponseModel):
    type: Literal["text_delta"]
    text: str


class WrittenThinkingDelta(ResponseModel):
    type: Literal["thinking_delta"]
    thinking: str


class WrittenSignatureDelta(ResponseModel):
    type: Literal["signature_delta"]
    signature: Literal[""]


class WrittenInputDelta(ResponseModel):
    type: Literal["input_json_delta"]
    partial_json: str


class ContentBlockDelta(ResponseModel):
    """`routing`, only if a trace was requested, names the model that wrote it."""

    type: Literal["content_block_delta"]
    index: int
    delta: WrittenTextDelta | WrittenThinkingDelta | WrittenSignatureDelta | WrittenInputDelta
    routing: ChunkAuthor | SkipJsonSchema[None] = None


class ContentBlockStop(ResponseModel):
    type: Literal["content_block_stop"]
    index: int


class MessageEnd(ResponseModel):
    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(ResponseModel):
    type: Literal["message_delta"]
    delta: MessageEnd
    usage: MessageUsage
    routing: RoutingTrace | SkipJsonSchema[None] = None


class MessageStop(ResponseModel):
    type: Literal["message_stop"]


class Ping(ResponseModel):
    type: Literal["ping"]


class MessageEvent(
    RootModel[
        MessageStart
        | ContentBlockStart
        | ContentBlockDelta
        | ContentBlockStop
        | MessageDelta
        | MessageStop
        | Ping
    ]
):
    """An event; its name is its `type`."""
