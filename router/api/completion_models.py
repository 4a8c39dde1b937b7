"""The completions that the router sends, for the OpenAPI document; named as in OpenAI's SDK.

Answers are built as plain dicts, not from these models: a stream needs one for every token. The docstrings of
models are part of the document.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel
from pydantic.json_schema import SkipJsonSchema


class ResponseModel(BaseModel):
    """Clients should ignore fields that they do not know: later versions may add some."""


class PromptTokensDetails(ResponseModel):
    cached_tokens: int


class TokenUsage(ResponseModel):
    """`prompt_tokens_details` is missing if the cache may hold what other API keys have sent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | SkipJsonSchema[None] = None


class PerModelUsage(ResponseModel):
    calls: int
    prompt_tokens: int
    completion_tokens: int


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


class ExpertProbability(ResponseModel):
    name: str
    probability: float


class TraceDecision(ResponseModel):
    """A decision of the meta, as far as it reports one: the expert that took over, the few likeliest experts
    and the likeliest word, in one softmax."""

    expert: str | None
    experts: list[ExpertProbability]
    best_word_probability: float


class RoutingTrace(ResponseModel):
    """`drafts` are the earlier answers of a chain."""

    spans: list[TraceSpan]
    drafts: list[list[TraceSpan]] = []
    decisions: list[TraceDecision]
    timing: TraceTiming


class TokenAlternative(ResponseModel):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TokenAlternative):
    top_logprobs: list[TokenAlternative]


class ChatLogprobs(ResponseModel):
    content: list[TokenLogprob]
    refusal: None


class TextLogprobs(ResponseModel):
    """The first token of an echoed prompt follows nothing, so it has no log-probability; nor has the end of
    the turn, an empty token, which follows an echoed prompt if the model adds nothing."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class PromptToken(ResponseModel):
    logprob: float
    rank: int | None
    decoded_token: str


FinishReason = Literal["stop", "length", "tool_calls", "function_call"]


class CompletionChoice(ResponseModel):
    """`stop_reason` is the stop string, or the id of the stop token, that ended the answer."""

    index: int
    finish_reason: FinishReason
    stop_reason: str | int | None
    prompt_logprobs: list[dict[str, PromptToken] | None] | SkipJsonSchema[None] = None
    routing: RoutingTrace | SkipJsonSchema[None] = None


class CalledFunction(ResponseModel):
    name: str
    arguments: str


class ToolCall(ResponseModel):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatCompletionMessage(ResponseModel):
    """`content` is null if there are tool calls and no text; `function_call` answers a request with
    `functions`. `author` comes with `routing.stay_bias`, and may be sent back."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning: str | SkipJsonSchema[None] = None
    tool_calls: list[ToolCall] | SkipJsonSchema[None] = None
    function_call: CalledFunction | SkipJsonSchema[None] = None
    author: str | SkipJsonSchema[None] = None


class ChatCompletionChoice(CompletionChoice):
    message: ChatCompletionMessage
    logprobs: ChatLogprobs | None


class TextCompletionChoice(CompletionChoice):
    text: str
    logprobs: TextLogprobs | None


class ChunkChoice(ResponseModel):
    index: int
    finish_reason: FinishReason | None
    stop_reason: str | int | None = None


class FunctionDelta(ResponseModel):
    name: str | SkipJsonSchema[None] = None
    arguments: str


class ToolCallDelta(ResponseModel):
    """The first piece of a call has its id, type and name."""

    index: int
    id: str | SkipJsonSchema[None] = None
    type: Literal["function"] | SkipJsonSchema[None] = None
    function: FunctionDelta


class ChatCompletionDelta(ResponseModel):
    role: Literal["assistant"] | SkipJsonSchema[None] = None
    content: str | SkipJsonSchema[None] = None
    reasoning: str | SkipJsonSchema[None] = None
    tool_calls: list[ToolCallDelta] | SkipJsonSchema[None] = None
    function_call: FunctionDelta | SkipJsonSchema[None] = None
    author: str | SkipJsonSchema[None] = None


class ChatCompletionChunkChoice(ChunkChoice):
    delta: ChatCompletionDelta
    logprobs: ChatLogprobs | None


class TextCompletionChunkChoice(ChunkChoice):
    text: str
    logprobs: TextLogprobs | None


class CompletionBase(ResponseModel):
    id: str
    created: int
    model: str
    system_fingerprint: str


class ChatCompletion(CompletionBase):
    object: Literal["chat.completion"]
    choices: list[ChatCompletionChoice]
    usage: TokenUsage
    usage_by_model: dict[str, PerModelUsage]


class TextCompletion(CompletionBase):
    object: Literal["text_completion"]
    choices: list[TextCompletionChoice]
    usage: TokenUsage
    usage_by_model: dict[str, PerModelUsage]


class CompletionChunk(CompletionBase):
    """Both usages are only in the last chunk and only on request; `routing` only if a trace was requested."""

    usage: TokenUsage | None = None
    usage_by_model: dict[str, PerModelUsage] | SkipJsonSchema[None] = None
    routing: ChunkAuthor | RoutingTrace | SkipJsonSchema[None] = None


class ChatCompletionChunk(CompletionChunk):
    object: Literal["chat.completion.chunk"]
    choices: list[ChatCompletionChunkChoice]


class TextCompletionChunk(CompletionChunk):
    object: Literal["text_completion"]
    choices: list[TextCompletionChunkChoice]
