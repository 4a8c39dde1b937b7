"""The request of /v1/responses, and the chat request that asks for the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, model_validator

from router.api.body import validated
from router.api.fields.routing import RoutingOptions
from router.api.fields.sampling import MAX_LOGPROBS, SamplingFields, StopFields
from router.api.fields.strict import Count, JsonObject, Name
from router.api.fields.table import Endpoint, EndpointRequest, refused_by
from router.api.fields.tools import MAX_TOOLS
from router.api.requests import ChatRequest, StreamOptions
from router.dialects.responses.conversation import Conversation
from router.dialects.responses.fields import AS_IN_CHAT, REFUSED
from router.dialects.responses.items import MAX_ITEMS, InputItem, parse_items
from router.dialects.responses.options import Include, TextOptions, ThoughtOptions
from router.dialects.responses.tools import (
    AllowedTools,
    NamedFunction,
    ResponseTool,
    ToolChoice,
    flat_name,
    functions,
    parse_choice,
    parse_tools,
)
from router.errors import InvalidRequest

MAX_METADATA = 16
MAX_INCLUDES = 16

Label = Annotated[str, Field(max_length=512)]
_AnyInput = str | Annotated[list[InputItem], Field(min_length=1, max_length=MAX_ITEMS)]
_AnyTools = Annotated[list[ResponseTool], Field(max_length=MAX_TOOLS)]
Items = Annotated[list[InputItem], PlainValidator(parse_items, json_schema_input_type=_AnyInput)]
Tools = Annotated[list[ResponseTool], PlainValidator(parse_tools, json_schema_input_type=_AnyTools)]
Choice = Annotated[
    ToolChoice,
    PlainValidator(
        parse_choice,
        json_schema_input_type=Literal["none", "auto", "required"] | NamedFunction | AllowedTools,
    ),
]


class ResponsesRequest(SamplingFields, StopFields, EndpointRequest):
    """Nothing is stored, so `input` holds the whole conversation. Fields that are not OpenAI's are those of
    a chat request."""

    refused = refused_by(Endpoint.RESPONSES, REFUSED)

    input: Items
    instructions: str | None = None
    model: Name | None = None
    routing: RoutingOptions | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    tools: Tools = Field(default_factory=list)
    tool_choice: Choice = ToolChoice("auto", "auto")
    parallel_tool_calls: bool = True
    text: TextOptions = TextOptions()
    reasoning: ThoughtOptions = ThoughtOptions()
    include_reasoning: bool = True
    include: list[Include] = Field(default_factory=list, max_length=MAX_INCLUDES, fail_fast=True)
    max_output_tokens: Count | None = None
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    truncation: Literal["auto", "disabled"] = "disabled"
    priority: int = Field(0, ge=-(2**63), lt=2**63)
    cache_salt: Name | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    metadata: dict[Label, Label] = Field(default_factory=dict, max_length=MAX_METADATA)
    user: Label | None = None
    safety_identifier: Label | None = None
    prompt_cache_key: Label | None = None

    @model_validator(mode="after")
    def _has_no_contradiction(self) -> ResponsesRequest:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequest('stream_options needs "stream": true', "stream_options")
        if self.top_logprobs and not self.with_logprobs:
            raise InvalidRequest("top_logprobs needs message.output_text.logprobs in include", "top_logprobs")
        if self.text.format.type != "text" and self.grammar is not None:
            raise InvalidRequest("two fields give the form of the answer: send text.format alone", "text")
        unknown = (self.tool_choice.allowed or frozenset()) - self.functions.keys()
        if unknown:
            raise InvalidRequest(
                f"tool_choice: the request has no tool named '{min(unknown)}'", "tool_choice"
            )
        return self

    @property
    def with_logprobs(self) -> bool:
        return "message.output_text.logprobs" in self.include

    @property
    def seals_thoughts(self) -> bool:
        return "reasoning.encrypted_content" in self.include

    @property
    def functions(self) -> dict[str, tuple[str | None, str]]:
        """The namespace and name of every function, by the name that models see."""
        return {
            flat_name(namespace, function.name): (namespace, function.name)
            for namespace, function in functions(self.tools)
        }

    def to_chat(self) -> ChatRequest:
        """Raises InvalidRequest if fields contradict each other."""
        conversation = Conversation(self.instructions)
        for item in self.input:
            item.add_to(conversation)
        messages = conversation.messages()
        if not messages:
            raise InvalidRequest("input: there is no message, call or output of a call", "input")
        return validated(
            ChatRequest, {**self._same_fields(), **dict(self._other_fields()), "messages": messages}
        )

    def _same_fields(self) -> dict[str, Any]:
        """The fields that a chat request has too, as far as the client sent them."""
        return self.model_dump(include=_SAME, by_alias=True, exclude_unset=True)

    def _other_fields(self) -> Iterator[tuple[str, Any]]:
        """The fields that a chat request has under other names or in other forms."""
        yield "max_completion_tokens", self.max_output_tokens
        yield "reasoning_effort", self.reasoning.effort
        if self.text.format.type != "text":
            yield "response_format", self.text.format.given()
        if self.with_logprobs:
            yield "logprobs", True
            yield "top_logprobs", self.top_logprobs
        if self.truncation == "auto":
            yield "truncate_prompt_tokens", -1
        if self.tools:
            yield "tools", list(self._chat_tools())
        yield "tool_choice", self.tool_choice.chat_choice

    def _chat_tools(self) -> Iterator[dict[str, Any]]:
        allowed = self.tool_choice.allowed
        for namespace, function in functions(self.tools):
            name = flat_name(namespace, function.name)
            if allowed is None or name in allowed:
                yield {"function": {**function.model_dump(exclude={"type"}), "name": name}}


_SAME = {
    name for name, field in ResponsesRequest.model_fields.items() if (field.alias or name) in AS_IN_CHAT
} | {"stream"}
