"""The messages of a conversation, with their content blocks, and what they are in a chat request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.messages import MAX_PARTS
from router.api.fields.strict import Name, StrictRequest, at_most

CallId = Annotated[str, Field(min_length=1, max_length=256)]

_SERVER_TOOL = "it is of a tool that runs on Anthropic's servers, and there are none here"
_UNSUPPORTED_BLOCKS = {
    "document": "send its text as a block of type text",
    "container_upload": "no code runs here",
    "search_result": "send its text as a block of type text",
    "tool_reference": "every tool is offered from the beginning",
    "browser_state": "models here read no browsers; send its text as a block of type text",
    "mid_conv_system": "send a message with the role system",
    "server_tool_use": _SERVER_TOOL,
    "web_search_tool_result": _SERVER_TOOL,
    "web_fetch_tool_result": _SERVER_TOOL,
    "code_execution_tool_result": _SERVER_TOOL,
    "bash_code_execution_tool_result": _SERVER_TOOL,
    "text_editor_code_execution_tool_result": _SERVER_TOOL,
    "tool_search_tool_result": _SERVER_TOOL,
    "mcp_tool_use": _SERVER_TOOL,
    "mcp_tool_result": _SERVER_TOOL,
}


_NOT_HERE = {"image": "only a message of the user has images"}


def _supported(value: Any, unsupported: Mapping[str, str] = _UNSUPPORTED_BLOCKS) -> Any:
    kind = value.get("type") if isinstance(value, dict) else None
    if isinstance(kind, str) and kind in unsupported:
        raise PydanticCustomError(
            "unsupported_parameter",
            "a block of type {kind} is not supported: {remedy}",
            {"kind": kind, "remedy": unsupported[kind]},
        )
    return value


def _text_only(value: Any) -> Any:
    return _supported(value, {**_UNSUPPORTED_BLOCKS, **_NOT_HERE})


def _as_blocks(value: Any) -> Any:
    if not isinstance(value, str | list):
        raise PydanticCustomError("content", "must be a string or a list of content blocks")
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class TextBlock(StrictRequest):
    type: Literal["text"]
    text: str


class ImageSource(StrictRequest):
    """Data in base64 with their `media_type`, or a `url`."""

    type: Literal["base64", "url"]
    media_type: str = Field("", max_length=64)
    data: str = ""
    url: str = ""

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        if not (self.url if self.type == "url" else self.data and self.media_type):
            raise PydanticCustomError("source", "has to be base64 with media_type and data, or url with url")
        return self


class ImageBlock(StrictRequest):
    type: Literal["image"]
    source: ImageSource

    def to_chat(self) -> dict[str, Any]:
        source = self.source
        is_url = source.type == "url"
        url = source.url if is_url else f"data:{source.media_type};base64,{source.data}"
        return {"type": "image_url", "image_url": {"url": url}}


class ToolUseBlock(StrictRequest):
    type: Literal["tool_use"]
    id: CallId
    name: Name
    input: dict[str, Any]

    def to_call(self) -> dict[str, Any]:
        return {"id": self.id, "function": {"name": self.name, "arguments": self.input}}


class ThinkingBlock(StrictRequest):
    """Passed to the chat template, which most often drops it. Signatures are not checked."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinkingBlock(StrictRequest):
    """Nothing here can read it, so it is left out."""

    type: Literal["redacted_thinking"]


_Texts = list[Annotated[TextBlock, BeforeValidator(_text_only)]]
Texts = Annotated[
    _Texts,
    at_most(MAX_PARTS),
    BeforeValidator(_as_blocks, json_schema_input_type=str | _Texts),
]


_ResultBlock = Annotated[TextBlock | ImageBlock, Field(discriminator="type"), BeforeValidator(_supported)]
_ResultBlocks = list[_ResultBlock]


class ToolResultBlock(StrictRequest):
    """An error is told to the model by the word `Error` before it."""

    type: Literal["tool_result"]
    tool_use_id: CallId
    content: Annotated[
        _ResultBlocks,
        at_most(MAX_PARTS),
        BeforeValidator(_as_blocks, json_schema_input_type=str | _ResultBlocks),
    ] = Field(default_factory=list)
    is_error: bool = False

    def to_chat(self) -> dict[str, Any]:
        return {"role": "tool", "tool_call_id": self.tool_use_id, "content": self._content()}

    def _content(self) -> str | list[dict[str, Any]]:
        texts = [block.text for block in self.content if isinstance(block, TextBlock)]
        if len(texts) == len(self.content):
            text = "\n".join(texts)
            return f"Error: {text}" if self.is_error else text
        error = [{"type": "text", "text": "Error:"}] if self.is_error else []
        parts = (b.model_dump() if isinstance(b, TextBlock) else b.to_chat() for b in self.content)
        return [*error, *parts]


Block = Annotated[
    TextBlock | ImageBlock | ToolUseBlock | ToolResultBlock | ThinkingBlock | RedactedThinkingBlock,
    Field(discriminator="type"),
    BeforeValidator(_supported),
]
_Blocks = list[Block]


_BLOCKS_BY_ROLE = {
    "user": ("text", "image", "tool_result"),
    "assistant": ("text", "tool_use", "thinking", "redacted_thinking"),
    "system": ("text",),
}


class ConversationMessage(StrictRequest):
    """Only the assistant calls tools and thinks, and only the user has the results of calls."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[
        _Blocks,
        Field(fail_fast=True),
        at_most(MAX_PARTS),
        BeforeValidator(_as_blocks, json_schema_input_type=str | _Blocks),
    ]

    @field_validator("content")
    @classmethod
    def _fits_the_role(cls, blocks: list[Block], info: ValidationInfo) -> list[Block]:
        role = info.data.get("role", "")
        wrong = [block.type for block in blocks if block.type not in _BLOCKS_BY_ROLE.get(role, block.type)]
        if wrong:
            raise PydanticCustomError(
                "role", "a message of the role {role} has no {kind} blocks", {"role": role, "kind": wrong[0]}
            )
        return blocks

    def to_chat(self) -> Iterator[dict[str, Any]]:
        """The message in a chat request: one for each result of a call, and one for each text between.

        A text after a result has its `tool_call_id`: agents add reminders to results, which are no questions.
        """
        if self.role == "assistant":
            yield self._of_assistant()
            return
        if not self.content:
            yield {"role": self.role, "content": ""}
        call_id = None
        for block in self.content:
            if isinstance(block, ToolResultBlock):
                call_id = block.tool_use_id
                yield block.to_chat()
            elif isinstance(block, TextBlock):
                yield {"role": self.role, "content": [block.model_dump()], "tool_call_id": call_id}
            elif isinstance(block, ImageBlock):
                yield {"role": self.role, "content": [block.to_chat()], "tool_call_id": call_id}

    def _of_assistant(self) -> dict[str, Any]:
        texts = [block.model_dump() for block in self.content if isinstance(block, TextBlock)]
        calls = [block.to_call() for block in self.content if isinstance(block, ToolUseBlock)]
        thoughts = [block.thinking for block in self.content if isinstance(block, ThinkingBlock)]
        return {
            "role": "assistant",
            "content": texts or "",
            "tool_calls": calls,
            "reasoning": "\n".join(thoughts) or None,
        }
