"""Messages as chat templates expect them, with all text that a client chose made harmless.

The content of a message is a text or, if it has pictures, a list of parts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

from experts.chat_template import Message
from experts.errors import InvalidPrompt

ROLES = ("system", "developer", "user", "assistant", "tool")


def prepared(message: Mapping[str, Any]) -> Message:
    """One message of OpenAI's API for a template: developer is system, and arguments are objects.

    Raises InvalidPrompt.
    """
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise InvalidPrompt("messages", f"role {role!r} is unknown; use one of {', '.join(ROLES)}")
    if isinstance(content, list | tuple) and role == "user":
        content = [_part(part) for part in content]
    elif not isinstance(content, str):
        raise InvalidPrompt("messages", f"the {role} message has no text content")
    fields: Message = {"role": "system" if role == "developer" else str(role), "content": content}
    if calls := message.get("tool_calls"):
        fields["tool_calls"] = [_call(call) for call in calls]
    if reasoning := message.get("reasoning"):
        # Qwen's template has the one name, newer ones the other.
        fields |= {"reasoning_content": reasoning, "reasoning": reasoning}
    if call_id := message.get("tool_call_id"):
        fields["tool_call_id"] = _short_id(call_id)
    return fields | ({"name": message["name"]} if message.get("name") else {})


def picture_urls(messages: Iterable[Mapping[str, Any]]) -> list[str]:
    """The address of each picture in the messages, in order."""
    contents = (message.get("content") for message in messages)
    parts = [part for content in contents if isinstance(content, list | tuple) for part in content]
    return [str(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]


def with_text_before(text: str, content: str | Sequence[Message]) -> str | list[Message]:
    """The content of a message with a paragraph before it."""
    if isinstance(content, str):
        return f"{text}\n\n{content}"
    return [{"type": "text", "text": f"{text}\n\n"}, *content]


def texts_in(value: Any) -> Iterator[str]:
    """Every string inside `value`, keys of objects included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from texts_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_in(item)


def guarded(value: Any, guard: Callable[[str], str]) -> Any:
    """A copy of `value` in which `guard` has changed every string, keys of objects included."""
    if isinstance(value, str):
        return guard(value)
    if isinstance(value, Mapping):
        return {guard(key): guarded(item, guard) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [guarded(item, guard) for item in value]
    return value


def _part(part: Mapping[str, Any]) -> Message:
    """A part of a content as templates know it. The pictures themselves are not for the template."""
    match part["type"]:
        case "text":
            return {"type": "text", "text": part["text"]}
        case "image_url":
            return {"type": "image"}
        case kind:
            raise InvalidPrompt("messages", f"this model cannot read {kind}, but text and pictures alone")


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except ValueError as error:
        raise InvalidPrompt(
            "messages", f"the arguments of a call of {function['name']} are not JSON"
        ) from error
    return {
        "id": _short_id(call["id"]),
        "type": "function",
        "function": {"name": function["name"], "arguments": arguments},
    }


def _short_id(call_id: str) -> str:
    """Mistral's templates take ids of nine letters and digits only."""
    return sha256(call_id.encode("utf-8", "surrogatepass")).hexdigest()[:9]
