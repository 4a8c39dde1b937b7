"""What /v1/responses sends, for the OpenAPI document; named as in OpenAI's SDK.

The docstrings of models are part of the document.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field
from pydantic.json_schema import SkipJsonSchema

from router.api.completion_models import (
    ChunkAuthor,
    PerModelUsage,
    ResponseModel,
    RoutingTrace,
    TokenLogprob,
)

ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(ResponseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(max_length=0)
    logprobs: list[TokenLogprob]


class ReasoningText(ResponseModel):
    type: Literal["reasoning_text"]
    text: str


class OutputMessage(ResponseModel):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class OutputReasoning(ResponseModel):
    """`encrypted_content` is there if the request includes it: the same thoughts in base64."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any] = Field(max_length=0)
    content: list[ReasoningText]
    encrypted_content: str | SkipJsonSchema[None] = None


class OutputFunctionCall(ResponseModel):
    """`arguments` is JSON; `namespace` is that of the function, if it has one."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: str | SkipJsonSchema[None] = None
    arguments: str


OutputItem = OutputMessage | OutputReasoning | OutputFunctionCall


class InputTokensDetails(ResponseModel):
    """`cached_tokens` is 0 if the cache may hold what other API keys have sent."""

    cached_tokens: int
    cache_write_tokens: Literal[0]


class OutputTokensDetails(ResponseModel):
    reasoning_tokens: int


class ResponseUsage(ResponseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class InputTokenCount(ResponseModel):
    object: Literal["response.input_tokens"]
    input_tokens: int


class IncompleteDetails(ResponseModel):
    reason: Literal["max_output_tokens"]


class FailedResponseError(ResponseModel):
    code: Literal["server_error", "rate_limit_exceeded", "invalid_prompt"]
    message: str
    param: str | None
    type: str


class ResponseBody(ResponseModel):
    """The fields of the request are repeated. `routing` is there if a trace was requested, and, like
    `usage_by_model`, only at the end."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: FailedResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    system_fingerprint: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    usage_by_model: dict[str, PerModelUsage] | SkipJsonSchema[None] = None
    routing: RoutingTrace | SkipJsonSchema[None] = None
    background: Literal[False]
    conversation: None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: None
    prompt_cache_key: str | None
    reasoning: dict[str, str | None]
    safety_identifier: str | None
    service_tier: Literal["default"]
    store: Literal[False]
    temperature: float
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float
    truncation: Literal["auto", "disabled"]
    user: str | None


class ResponseEvent(ResponseModel):
    """An event; those that begin or end a response hold it, those about an item name it. `delta` is text,
    thoughts, or a piece of the arguments of a call. `error` has the fields `code`, `message` and `param`."""

    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
        "response.output_item.added",
        "response.output_item.done",
        "response.content_part.added",
        "response.content_part.done",
        "response.output_text.delta",
        "response.output_text.done",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "error",
    ]
    sequence_number: int
    response: ResponseBody | SkipJsonSchema[None] = None
    output_index: int | SkipJsonSchema[None] = None
    item: OutputItem | SkipJsonSchema[None] = None
    item_id: str | SkipJsonSchema[None] = None
    content_index: int | SkipJsonSchema[None] = None
    part: OutputText | ReasoningText | SkipJsonSchema[None] = None
    delta: str | SkipJsonSchema[None] = None
    text: str | SkipJsonSchema[None] = None
    logprobs: list[TokenLogprob] | SkipJsonSchema[None] = None
    name: str | SkipJsonSchema[None] = None
    arguments: str | SkipJsonSchema[None] = None
    code: str | None = None
    message: str | SkipJsonSchema[None] = None
    param: str | None = None
    routing: ChunkAuthor | SkipJsonSchema[None] = None
