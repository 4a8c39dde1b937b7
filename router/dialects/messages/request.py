"""The requests of this dialect, and the chat requests that they stand for."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from router.api.body import validated
from router.api.fields.routing import RoutingOptions
from router.api.fields.sampling import MAX_STOP_STRINGS, StopString
from router.api.fields.strict import MAX_INT32, JsonObject, Name, StrictRequest
from router.api.fields.table import Endpoint, EndpointRequest, refused_by
from router.api.fields.tools import MAX_TOOLS
from router.api.requests import MAX_MESSAGES, ChatRequest
from router.dialects.messages.content import ConversationMessage, Texts
from router.dialects.messages.fields import REFUSED
from router.errors import InvalidRequest

_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def _custom(value: Any) -> Any:
    if isinstance(value, str) and value != "custom":
        raise PydanticCustomError(
            "unsupported_parameter",
            "a tool of type {kind} is not supported: offer a tool with a name and an input_schema",
            {"kind": value[:64]},
        )
    return value


class CustomTool(StrictRequest):
    """A tool that the client runs. `input_schema` is a JSON schema."""

    type: Annotated[Literal["custom"], BeforeValidator(_custom)] = "custom"
    name: Name
    description: str | None = None
    input_schema: JsonObject
    strict: bool | None = None

    def to_chat(self) -> dict[str, Any]:
        function = {
            "name": self.name,
            "description": self.description,
            "parameters": self.input_schema,
            "strict": self.strict,
        }
        return {"type": "function", "function": function}


class MessageToolChoice(StrictRequest):
    type: Literal["auto", "any", "tool", "none"]
    name: Name | None = None
    disable_parallel_tool_use: bool = False

    @model_validator(mode="after")
    def _names_a_tool(self) -> Self:
        if self.type == "tool" and self.name is None:
            raise InvalidRequest('tool_choice: the type "tool" needs a name', "tool_choice.name")
        return self

    def to_chat(self) -> dict[str, Any]:
        named = {"type": "function", "function": {"name": self.name}}
        choice = named if self.type == "tool" else _CHOICES[self.type]
        return {"tool_choice": choice, "parallel_tool_calls": not self.disable_parallel_tool_use}


class Thinking(StrictRequest):
    """`budget_tokens` changes nothing: thoughts count towards `max_tokens`."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1, le=MAX_INT32)
    display: Literal["summarized", "omitted"] | None = None

    def to_chat(self) -> dict[str, Any]:
        shown = self.type != "disabled" and self.display != "omitted"
        thinks = None if self.type == "adaptive" else self.type == "enabled"
        return {"enable_thinking": thinks, "include_reasoning": shown}


class OutputFormat(StrictRequest):
    type: Literal["json_schema"]
    # `schema` is taken: pydantic's models have a method of that name.
    json_schema: JsonObject = Field(alias="schema")


class OutputConfig(StrictRequest):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: OutputFormat | None = None

    def to_chat(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"reasoning_effort": self.effort}
        if self.format is not None:
            json_schema = {"schema": self.format.json_schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": json_schema}
        return fields


class CountTokensRequest(EndpointRequest):
    """A conversation, with the tools and options that the prompt depends on."""

    refused = refused_by(Endpoint.COUNT_TOKENS, REFUSED)

    model: Name | None = None
    messages: list[ConversationMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    system: Texts = Field(default_factory=list)
    tools: list[CustomTool] = Field(default_factory=list, max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: MessageToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    routing: RoutingOptions | None = None
    cache_salt: Name | None = None

    def to_chat(self) -> ChatRequest:
        """The same request to the chat endpoint.

        Raises:
            InvalidRequest: the parts of the request do not fit together.
        """
        return validated(ChatRequest, self._chat_fields())

    def _chat_fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [*self._instructions(), *self._turns()],
            "tools": [tool.to_chat() for tool in self.tools],
            "continue_final_message": self._is_continued(),
            "routing": self.routing and self.routing.model_dump(exclude_unset=True),
            "cache_salt": self.cache_salt,
        }
        for part in (self.tool_choice, self.thinking, self.output_config):
            fields |= part.to_chat() if part else {}
        return fields

    def _instructions(self) -> list[dict[str, Any]]:
        texts = [block.model_dump() for block in self.system]
        return [{"role": "system", "content": texts}] if texts else []

    def _turns(self) -> list[dict[str, Any]]:
        """Texts and images of the user in a row are one turn."""
        turns: list[dict[str, Any]] = []
        for turn in (turn for message in self.messages for turn in message.to_chat()):
            is_text = turn["role"] == "user" and turn["content"]
            if is_text and turns and turns[-1]["role"] == "user" and turns[-1]["content"]:
                turns[-1]["content"] += turn["content"]
                turns[-1]["tool_call_id"] = turn["tool_call_id"]
            else:
                turns.append(turn)
        return turns

    def _is_continued(self) -> bool:
        """Whether the answer goes on with the text of the last message."""
        last = self.messages[-1]
        if last.role != "assistant" or any(block.type != "text" for block in last.content):
            return False
        if len(self.messages) == 1 and not self.system:
            raise InvalidRequest("messages: the first message has to be the user's", "messages")
        return True


class MessagesRequest(CountTokensRequest):
    """Anthropic's request, with the `routing` extension."""

    refused = refused_by(Endpoint.MESSAGES, REFUSED)

    max_tokens: int = Field(ge=1, le=MAX_INT32)
    stream: bool = False
    stop_sequences: list[StopString] = Field(default_factory=list, max_length=MAX_STOP_STRINGS)
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=MAX_INT32)

    @field_validator("max_tokens", mode="before")
    @classmethod
    def _writes_something(cls, value: Any) -> Any:
        if value == 0 and not isinstance(value, bool):
            raise PydanticCustomError("zero", "must be at least 1; caches fill by themselves")
        return value

    def _chat_fields(self) -> dict[str, Any]:
        fields = super()._chat_fields() | {
            "max_tokens": self.max_tokens,
            "stream": self.stream,
            "stop": self.stop_sequences,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
        }
        if self.stream:  # the first event has the number of tokens in the prompt
            fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return fields
