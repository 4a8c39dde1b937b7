"""The grammar of the events of /v1/responses, and what a client makes of them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

TERMINAL = ("response.completed", "response.incomplete", "response.failed")
EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
# By the name of a text in events: the type of the part that holds it, or none.
TEXTS = {"output_text": "output_text", "reasoning_text": "reasoning_text", "function_call_arguments": None}


def decoded(body: str) -> list[dict[str, Any]]:
    """The events of a stream, of which each is named as its type."""
    *blocks, end = body.split("\n\n")
    assert end == ""
    events = []
    for block in blocks:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


class Reader:
    """Reads events one after the other; an event that the grammar does not allow at its place is an error.

    `texts` are the texts of all items, as their deltas say.
    """

    def __init__(self) -> None:
        self.num_events = 0
        self.texts: list[str] = []
        self.done: dict[int, dict[str, Any]] = {}
        self.response: dict[str, Any] = {}
        self._items: list[dict[str, Any]] = []
        self._ended_texts: set[int] = set()
        self._parts: dict[int, str] = {}  # the open part of each item
        self._error: dict[str, Any] | None = None

    def read(self, events: Iterable[dict[str, Any]]) -> Reader:
        for event in events:
            EVENTS.validate_python(event)
            assert event["sequence_number"] == self.num_events
            assert self.response.get("status") in (None, "in_progress")
            self._read(event)
            self.num_events += 1
        return self

    def _read(self, event: dict[str, Any]) -> None:
        kind = event["type"].removeprefix("response.")
        if self.num_events < 2:
            assert kind == ("created", "in_progress")[self.num_events]
        if "response" in event:
            self._read_response(kind, event["response"])
        elif kind == "error":
            assert self._error is None
            self._error = event
        else:
            assert self._error is None
            self._read_item_event(kind, event)

    def _read_response(self, kind: str, response: dict[str, Any]) -> None:
        Response.model_validate(response, strict=True)
        assert response["id"] == self.response.get("id", response["id"])
        self.response = response
        if kind in ("created", "in_progress"):
            assert self.num_events < 2
            assert (response["status"], response["output"], response["usage"]) == ("in_progress", [], None)
            return
        assert f"response.{kind}" in TERMINAL
        assert response["status"] == kind
        assert (kind == "failed") == (self._error is not None) == (response["error"] is not None)
        assert (kind == "incomplete") == (response["incomplete_details"] is not None)
        if kind != "failed":
            assert response["output"] == [self.done[index] for index in range(len(self._items))]
            assert response["usage"]["total_tokens"] >= 0
        assert [texts(item) for item in response["output"]] == self.texts

    def _read_item_event(self, kind: str, event: dict[str, Any]) -> None:
        index = event["output_index"]
        if kind == "output_item.added":
            assert index == len(self._items)
            item = event["item"]
            assert item["status"] == "in_progress"
            assert item.get("content", []) == []
            assert item.get("arguments", "") == ""
            self._items.append(item)
            self.texts.append("")
            return
        item = self._items[index]
        assert index not in self.done
        if kind == "output_item.done":
            assert event["item"]["id"] == item["id"]
            assert event["item"]["status"] in ("completed", "incomplete")
            assert index in self._ended_texts
            assert index not in self._parts
            assert texts(event["item"]) == self.texts[index]
            self.done[index] = event["item"]
            return
        assert event["item_id"] == item["id"]
        self._read_text_event(kind, index, event)

    def _read_text_event(self, kind: str, index: int, event: dict[str, Any]) -> None:
        name, _, phase = kind.rpartition(".")
        if name == "content_part":
            self._read_part(phase, index, event)
            return
        assert TEXTS[name] == self._parts.get(index)
        assert index not in self._ended_texts
        if phase == "delta":
            assert event["delta"] != "" or event.get("logprobs")
            self.texts[index] += event["delta"]
            return
        assert phase == "done"
        assert (event["arguments"] if "arguments" in event else event["text"]) == self.texts[index]
        self._ended_texts.add(index)

    def _read_part(self, phase: str, index: int, event: dict[str, Any]) -> None:
        assert event["content_index"] == 0
        if phase == "added":
            assert index not in self._parts
            assert event["part"]["text"] == ""
            self._parts[index] = event["part"]["type"]
            return
        assert phase == "done"
        assert index in self._ended_texts
        assert event["part"]["text"] == self.texts[index]
        assert event["part"]["type"] == self._parts.pop(index)


def texts(item: dict[str, Any]) -> str:
    """All text of an item."""
    if item["type"] == "function_call":
        return str(item["arguments"])
    return "".join(part["text"] for part in item["content"])
