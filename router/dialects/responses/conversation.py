"""The items of a request as the messages of a conversation, which chat templates render."""

from __future__ import annotations

from typing import Any

from router.api.fields.messages import MAX_TOOL_CALLS
from router.errors import InvalidRequest


class Conversation:
    """What an assistant thought, said and called in a row is one message: models write it as one turn.

    The instructions and the system messages that begin a conversation are one message too, since many chat
    templates allow one system message, at the beginning.
    """

    def __init__(self, instructions: str | None) -> None:
        self._messages: list[dict[str, Any]] = []
        self._thoughts: list[str] = []
        self._texts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        if instructions:
            self.say("system", instructions)

    def say(self, role: str, content: str | list[dict[str, Any]]) -> None:
        """`content` is text, except that of a user, which may be the parts of a chat message."""
        if role == "assistant" and isinstance(content, str):
            self._texts.append(content)
            return
        self._end_turn()
        if role == "system" and [message["role"] for message in self._messages] == ["system"]:
            self._messages[0]["content"] += f"\n\n{content}"
        else:
            self._messages.append({"role": role, "content": content})

    def think(self, text: str) -> None:
        self._thoughts.append(text)

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Raises InvalidRequest if there are too many calls in a row."""
        if len(self._calls) == MAX_TOOL_CALLS:
            raise InvalidRequest(f"input: at most {MAX_TOOL_CALLS} calls are allowed in a row", "input")
        self._calls.append({"id": call_id, "function": {"name": name, "arguments": arguments}})

    def give_result(self, call_id: str, content: str | list[dict[str, Any]]) -> None:
        self._end_turn()
        self._messages.append({"role": "tool", "tool_call_id": call_id, "content": content})

    def messages(self) -> list[dict[str, Any]]:
        """All messages, as a chat request has them."""
        self._end_turn()
        return self._messages

    def _end_turn(self) -> None:
        """Thoughts alone are dropped: a turn that was given up before it said anything."""
        if self._texts or self._calls:
            message: dict[str, Any] = {"role": "assistant", "content": "\n".join(self._texts)}
            if self._thoughts:
                message["reasoning"] = "\n".join(self._thoughts)
            if self._calls:
                message["tool_calls"] = self._calls
            self._messages.append(message)
        self._thoughts, self._texts, self._calls = [], [], []
