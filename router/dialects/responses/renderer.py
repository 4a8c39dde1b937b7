"""The deltas of one answer become items, and events that tell how the items grow."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from router.decoding.delta import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from router.dialects.responses.output import (
    COMPLETED,
    IN_PROGRESS,
    INCOMPLETE,
    CallOutput,
    Event,
    MessageOutput,
    OutputItem,
    ReasoningOutput,
    SealedReasoningOutput,
    TextOutput,
)
from router.parts import TokenLogprobs


class OutputRenderer:
    """Keeps the items in the order in which they began.

    A message and thoughts end when another item begins. A call ends then if its arguments are whole, and at
    the end of the answer otherwise: servers may send the pieces of several calls by turns.

    Args:
        functions: The namespace and the name of each function, by its name as models see it.
        seals_thoughts: Whether thoughts also have the form of `encrypted_content`.
    """

    def __init__(self, functions: Mapping[str, tuple[str | None, str]], *, seals_thoughts: bool) -> None:
        self._functions = functions
        self._reasoning = SealedReasoningOutput if seals_thoughts else ReasoningOutput
        self._items: list[OutputItem] = []
        self._calls: dict[int, CallOutput] = {}  # by the index of the call

    def add(self, delta: Delta) -> Iterator[Event]:
        if isinstance(delta, TextDelta) and (delta.text or delta.logprobs):
            yield from self._add_text(MessageOutput, delta.text, delta.logprobs)
        elif isinstance(delta, ReasoningDelta) and delta.text:
            yield from self._add_text(self._reasoning, delta.text)
        elif isinstance(delta, ToolCallDelta):
            yield from self._add_to_call(delta)

    def end(self, status: str) -> Iterator[Event]:
        """End the items that are not whole yet, with this status. An answer has at least one item."""
        if not self._items:
            yield from self._begin(MessageOutput(0))
        for item in self._growing():
            yield from item.end(status)

    def give_up(self) -> None:
        """End the items that are not whole without an event."""
        for item in self._growing():
            item.status = INCOMPLETE

    @property
    def items(self) -> list[dict[str, Any]]:
        """All items, as clients get them."""
        return [item.fields() for item in self._items]

    def _add_text(
        self, kind: type[TextOutput], text: str, logprobs: Iterable[TokenLogprobs] = ()
    ) -> Iterator[Event]:
        if not self._items or not isinstance(self._items[-1], kind):
            yield from self._begin(kind(len(self._items)))
        yield self._items[-1].grow(text, logprobs)

    def _add_to_call(self, delta: ToolCallDelta) -> Iterator[Event]:
        if delta.index not in self._calls:
            name = delta.name or ""
            call = CallOutput(len(self._items), delta.id or "", *self._functions.get(name, (None, name)))
            yield from self._begin(call)
            self._calls[delta.index] = call
        call = self._calls[delta.index]
        if delta.arguments and call.status == IN_PROGRESS:  # white space may follow whole arguments
            yield call.grow(delta.arguments)

    def _begin(self, new: OutputItem) -> Iterator[Event]:
        for item in self._growing():
            if not isinstance(item, CallOutput) or _is_whole(item.text):
                yield from item.end(COMPLETED)
        self._items.append(new)
        yield from new.begin()

    def _growing(self) -> list[OutputItem]:
        return [item for item in self._items if item.status == IN_PROGRESS]


def _is_whole(arguments: str) -> bool:
    try:
        return isinstance(json.loads(arguments), dict)
    except ValueError:
        return False
