"""The content of an answer: blocks, one after the other, as events."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from pydantic_core import from_json

from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta

Event = dict[str, Any]
_Waiting = TextDelta | ReasoningDelta | ToolCallDelta


class ContentBlocks:
    """Turns the deltas of an answer into events: each block starts, grows, and stops before the next starts.

    A call ends when its arguments are complete and another call begins, or with the answer. Until then, text
    and other calls wait: servers may send the pieces of several calls by turns.
    """

    def __init__(self) -> None:
        self.index = -1
        self.open: str | None = None  # the type of the block that has not stopped
        self._call: int | None = None  # the index of the last call that was begun
        self._arguments = ""  # of that call
        self._waiting: list[_Waiting] = []

    def add(self, item: Delta) -> Iterator[Event]:
        match item:
            case TextDelta(text="") | PromptDelta():
                return
            case ToolCallDelta():
                yield from self._add_call(item)
            case TextDelta() | ReasoningDelta() if self.open == "tool_use":
                self._waiting.append(item)
            case TextDelta():
                yield from self._started({"type": "text", "text": ""})
                yield self.delta({"type": "text_delta", "text": item.text})
            case ReasoningDelta():
                yield from self._started({"type": "thinking", "thinking": "", "signature": ""})
                yield self.delta({"type": "thinking_delta", "thinking": item.text})

    def close(self) -> Iterator[Event]:
        """The end of the content, or of everything before a call."""
        yield from self._stopped()
        waiting, self._waiting = self._waiting, []
        for item in _by_call(waiting):
            is_own = isinstance(item, ToolCallDelta) and item.index == self._call
            if self.open == "tool_use" and not is_own:
                yield from self._stopped()  # all pieces of that call have come
            yield from self.add(item)
        yield from self._stopped()

    def delta(self, content: dict[str, Any]) -> Event:
        """An event about the open block."""
        return {"type": "content_block_delta", "index": self.index, "delta": content}

    def _add_call(self, item: ToolCallDelta) -> Iterator[Event]:
        is_own = self.open == "tool_use" and item.index == self._call
        if not is_own and not (item.name is not None and self._may_begin_call()):
            self._waiting.append(item)
            return
        if item.name is not None:
            yield from self.close()
            self._call, self._arguments = item.index, ""
            yield from self._started({"type": "tool_use", "id": item.id, "name": item.name, "input": {}})
        if item.arguments:
            self._arguments += item.arguments
            yield self.delta({"type": "input_json_delta", "partial_json": item.arguments})

    def _may_begin_call(self) -> bool:
        if self.open != "tool_use":
            return True
        # A call that waits may have more pieces to come: calls after it wait for the end of the answer too.
        are_others = any(isinstance(item, ToolCallDelta) for item in self._waiting)
        return not are_others and _is_json(self._arguments)

    def _started(self, block: dict[str, Any]) -> Iterator[Event]:
        if self.open == block["type"]:
            return
        yield from self._stopped()
        self.index += 1
        self.open = block["type"]
        yield {"type": "content_block_start", "index": self.index, "content_block": block}

    def _stopped(self) -> Iterator[Event]:
        if self.open is None:
            return
        if self.open == "thinking":
            yield self.delta({"type": "signature_delta", "signature": ""})
        self.open = None
        yield {"type": "content_block_stop", "index": self.index}


def _by_call(items: Iterable[_Waiting]) -> Iterator[_Waiting]:
    """The items in their order, but all pieces of a call where its first one is."""
    pieces: dict[int, list[ToolCallDelta]] = {}
    order: list[_Waiting] = []
    for item in items:
        if isinstance(item, ToolCallDelta):
            pieces.setdefault(item.index, []).append(item)
            if len(pieces[item.index]) > 1:
                continue
        order.append(item)
    for item in order:
        yield from pieces[item.index] if isinstance(item, ToolCallDelta) else (item,)


def _is_json(text: str) -> bool:
    try:
        from_json(text)
    except ValueError:
        return False
    return True


def whole_content(events: Iterable[Event]) -> list[dict[str, Any]]:
    """The blocks that the events tell of."""
    blocks: list[dict[str, Any]] = []
    pieces: list[str] = []
    for event in events:
        match event:
            case {"type": "content_block_start", "content_block": block}:
                blocks.append(dict(block))
                pieces = []
            case {"delta": {"text": piece} | {"thinking": piece} | {"partial_json": piece}}:
                pieces.append(piece)
            case {"type": "content_block_stop"}:
                blocks[-1] |= _written(blocks[-1]["type"], "".join(pieces))
    return blocks


def _written(kind: str, text: str) -> dict[str, Any]:
    return {"input": _parsed(text)} if kind == "tool_use" else {kind: text}


def _parsed(arguments: str) -> dict[str, Any]:
    """The input of a call. What `max_tokens` cut off is missing."""
    try:
        parsed = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}
