"""The items of `input`: messages, calls of functions and their outputs, and thoughts."""

from __future__ import annotations

import base64
from abc import abstractmethod
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from router.api.fields.strict import Name, StrictRequest
from router.api.requests import MAX_MESSAGES
from router.dialects.responses.content import ChatContent, any_parts, parts, result_parts
from router.dialects.responses.conversation import Conversation
from router.dialects.responses.tools import flat_name
from router.dialects.responses.typed import parse_list, parse_typed
from router.errors import InvalidRequest

MAX_ITEMS = MAX_MESSAGES - 1  # beside `instructions`

CallId = Annotated[str, Field(min_length=1, max_length=256)]


class _Item(StrictRequest):
    @abstractmethod
    def add_to(self, conversation: Conversation) -> None: ...


class MessageItem(_Item):
    """`type` may be left out."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Annotated[ChatContent, any_parts("content")]

    @model_validator(mode="after")
    def _fits_the_role(self) -> Self:
        if self.role != "user" and not isinstance(self.content, str):
            raise InvalidRequest("content: only a message of the role user has pictures or files", "content")
        return self

    def add_to(self, conversation: Conversation) -> None:
        role = "system" if self.role == "developer" else self.role
        conversation.say(role, self.content)


class FunctionCallItem(_Item):
    type: Literal["function_call"]
    call_id: CallId
    name: Name
    namespace: Name | None = None
    arguments: str

    def add_to(self, conversation: Conversation) -> None:
        conversation.call(self.call_id, flat_name(self.namespace, self.name), self.arguments)


class FunctionCallOutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Annotated[ChatContent, result_parts("output")]

    def add_to(self, conversation: Conversation) -> None:
        conversation.give_result(self.call_id, self.output)


class ReasoningItem(_Item):
    """Thoughts of an earlier turn: the first of `content`, `encrypted_content` and `summary` that says any.
    `encrypted_content` of another server says none."""

    type: Literal["reasoning"]
    summary: Annotated[str, parts("summary")] = ""
    content: Annotated[str, parts("content")] = ""
    encrypted_content: str | None = None

    def add_to(self, conversation: Conversation) -> None:
        text = self.content or unseal(self.encrypted_content or "") or self.summary
        if text:
            conversation.think(text)


InputItem = MessageItem | FunctionCallItem | FunctionCallOutputItem | ReasoningItem

_KINDS: dict[str, type[InputItem]] = {
    "message": MessageItem,
    "function_call": FunctionCallItem,
    "function_call_output": FunctionCallOutputItem,
    "reasoning": ReasoningItem,
}
_REMEDIES = {
    "item_reference": "nothing is stored; send the item itself",
    "compaction": "nothing is stored; send the conversation itself",
}


def parse_items(value: Any) -> list[InputItem]:
    """A text is one message of the user.

    Raises:
        InvalidRequest: it is neither a text nor a list of items, or an item is invalid or not supported.
    """
    if isinstance(value, str):
        return [MessageItem(role="user", content=value)]
    return parse_list("input", value, MAX_ITEMS, _parse_item, min_length=1)


def seal(thoughts: str) -> str:
    """Thoughts as `encrypted_content`, for clients that send back nothing else of them. It is base64: who
    gets it has the thoughts as text too."""
    return _SEAL + base64.b64encode(thoughts.encode("utf-8", "surrogatepass")).decode()


def unseal(content: str) -> str:
    """The thoughts in `encrypted_content`; empty if another server wrote it."""
    if not content.startswith(_SEAL):
        return ""
    try:
        return base64.b64decode(content.removeprefix(_SEAL)).decode("utf-8", "surrogatepass")
    except ValueError:  # a client has changed it
        return ""


_SEAL = "thoughts:"


def _parse_item(path: str, value: Any) -> InputItem:
    """OpenAI lets the type of messages and of references be left out."""
    is_reference = isinstance(value, dict) and "id" in value and "role" not in value
    return parse_typed(path, value, _KINDS, _REMEDIES, "item_reference" if is_reference else "message")
