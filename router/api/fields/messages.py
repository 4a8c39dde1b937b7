"""The messages of a conversation, with the tool calls and results among them."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from router.api.fields.parts import ContentPart
from router.api.fields.strict import Name, StrictRequest
from router.prompt import Media, Message, ToolCall, joined

MAX_PARTS = 2048  # per message
MAX_TOOL_CALLS = 128  # per message


_Nothing = Annotated[list[Any], Field(max_length=0)] | None
_Parts = Annotated[list[ContentPart], Field(min_length=1, max_length=MAX_PARTS)]


class MessageFunction(StrictRequest):
    """`arguments` is JSON, or the object that it stands for."""

    name: Name
    arguments: str = "{}"

    @field_validator("arguments", mode="before", json_schema_input_type=str | dict[str, Any])
    @classmethod
    def _as_json(cls, value: Any) -> Any:
        return json.dumps(value) if isinstance(value, dict) else value


class MessageToolCall(StrictRequest):
    id: str = Field("", max_length=256)
    type: Literal["function"] = "function"
    function: MessageFunction

    def to_tool_call(self) -> ToolCall:
        return ToolCall(self.id, self.function.name, self.function.arguments)


class ChatMessage(StrictRequest):
    """Only an assistant's message may be without `content`. The role `function` and the field
    `function_call` are those of OpenAI's first API for tools."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: list[ContentPart] = Field(
        None, validate_default=True, min_length=1, max_length=MAX_PARTS, fail_fast=True
    )
    tool_calls: list[MessageToolCall] = Field(default_factory=list, max_length=MAX_TOOL_CALLS, fail_fast=True)
    function_call: MessageFunction | None = None
    tool_call_id: str | None = Field(None, max_length=256)
    name: str | None = Field(None, max_length=256)
    author: str | None = Field(None, max_length=256)
    reasoning: str | None = None
    reasoning_content: str | None = None
    refusal: str | None = None
    audio: Any = None
    tools: Any = None

    @field_validator("content", mode="before", json_schema_input_type=str | _Parts)
    @classmethod
    def _as_parts(cls, value: Any, info: ValidationInfo) -> Any:
        if value is None and info.data.get("role") == "assistant":
            value = ""
        if not isinstance(value, str | list):
            raise PydanticCustomError("content", "must be a string or a list of parts")
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @field_validator("content")
    @classmethod
    def _fits_the_role(cls, content: list[ContentPart], info: ValidationInfo) -> list[ContentPart]:
        allowed = _PARTS_BY_ROLE.get(info.data.get("role", ""), ("text",))
        if any(part.type not in allowed for part in content):
            raise PydanticCustomError(
                "role",
                "only a message of the user has parts that are not text, and the result of a tool pictures",
            )
        return content

    @field_validator("tool_calls", "function_call")
    @classmethod
    def _is_of_an_assistant(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("role") != "assistant":
            raise PydanticCustomError("role", "only a message of the assistant has tool calls")
        return value

    @field_validator("audio", "tools", mode="before", json_schema_input_type=_Nothing)
    @classmethod
    def _is_empty(cls, value: Any) -> Any:
        if value not in (None, []):
            raise PydanticCustomError("unsupported_parameter", "is not supported")
        return value

    @property
    def text(self) -> str:
        return self._joined()[0]

    def to_message(self) -> Message:
        is_assistant, is_function = self.role == "assistant", self.role == "function"
        text, media = self._joined()
        tool_calls = tuple(call.to_tool_call() for call in self.tool_calls)
        if self.function_call is not None:
            call = self.function_call
            tool_calls += (ToolCall(_function_id(call.name), call.name, call.arguments),)
        return Message(
            _ROLES.get(self.role, self.role),
            text,
            tool_calls=tool_calls,
            reasoning=(self.reasoning or self.reasoning_content) if is_assistant else None,
            tool_call_id=_function_id(self.name or "") if is_function else self.tool_call_id,
            name=self.name,
            author=self.author if is_assistant else None,
            media=media,
        )

    def _joined(self) -> tuple[str, tuple[Media, ...]]:
        text, media = joined(part.to_prompt() for part in self.content)
        return text or self.refusal or "", media


_PARTS_BY_ROLE = {
    "user": ("text", "image_url", "input_audio", "file"),
    "tool": ("text", "image_url"),
}
# OpenAI renamed the system role to `developer` and the function role to `tool`; the chat templates of open
# models use `system` and `tool`.
_ROLES = {"developer": "system", "function": "tool"}


def _function_id(name: str) -> str:
    """The first API for tools had no ids: a result belongs to the call of its function."""
    return f"function_{name}"
