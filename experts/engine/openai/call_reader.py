"""The tool calls in the stream of a server that speaks the OpenAI API."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experts.engine.chunk import ToolCallPart
from experts.engine.openai.json_fields import count_of, dict_of, str_of, text_of


@dataclass
class _Call:
    number: int
    id: str
    name: str = ""
    arguments: str = ""


class CallReader:
    """Reads the pieces of the calls of one answer, and numbers the calls itself.

    Servers differ from OpenAI here: some give every call the index 0 or none at all, and some repeat the name
    in every piece.
    """

    def __init__(self) -> None:
        self._num_calls = 0
        self._last: dict[int, _Call] = {}  # by the index that the server gives

    def read(self, delta: Mapping[str, Any]) -> list[ToolCallPart]:
        calls = delta.get("tool_calls")
        parts = [self._piece(dict_of(call)) for call in calls] if isinstance(calls, list) else []
        return [part for part in parts if part.name or part.arguments]

    def _piece(self, piece: Mapping[str, Any]) -> ToolCallPart:
        function, index = dict_of(piece.get("function")), count_of(piece.get("index"), None) or 0
        name, arguments = text_of(function.get("name")), text_of(function.get("arguments"))
        call = self._last.get(index)
        call_id = str_of(piece.get("id"))
        if call is None or (name and _is_another(call, call_id, name)):
            call = self._last[index] = _Call(self._num_calls, call_id)
            self._num_calls += 1
        is_first_name = bool(name) and not call.name
        call.name = call.name or name
        call.arguments += arguments
        return ToolCallPart(call.number, name if is_first_name else None, arguments)


def _is_another(call: _Call, call_id: str, name: str) -> bool:
    """Whether a piece with a name, at the index of `call`, begins another call."""
    if call_id and call.id:
        return call_id != call.id
    if call.name and name != call.name:
        return True
    try:
        json.loads(call.arguments)
    except ValueError:
        return False
    return True
