"""The parts that a parser has read."""

from __future__ import annotations

from experts.engine.chunk import Part, ReasoningPart, TextPart, ToolCallPart
from experts.engine.parsing.source import TextSource


class PartSink:
    """Collects parts and joins neighbours of one kind. What it takes is committed: it is not read again.

    With `is_parallel` off, calls after the first are dropped.
    """

    def __init__(self, source: TextSource, *, is_parallel: bool = True) -> None:
        self._source = source
        self._is_parallel = is_parallel
        self._parts: list[Part] = []
        self._num_calls = 0

    @property
    def num_calls(self) -> int:
        """How many calls have begun."""
        return self._num_calls

    def text(self, text: str) -> None:
        self._source.commit()
        if self._parts and isinstance(last := self._parts[-1], TextPart):
            self._parts[-1] = TextPart(last.text + text)
        elif text:
            self._parts.append(TextPart(text))

    def reasoning(self, text: str) -> None:
        self._source.commit()
        if self._parts and isinstance(last := self._parts[-1], ReasoningPart):
            self._parts[-1] = ReasoningPart(last.text + text)
        elif text:
            self._parts.append(ReasoningPart(text))

    def begin_call(self, name: str) -> None:
        self._source.commit()
        self._num_calls += 1
        if self._is_parallel or self._num_calls == 1:
            self._parts.append(ToolCallPart(self._num_calls - 1, name))

    def arguments(self, text: str) -> None:
        """Further arguments of the last call."""
        self._source.commit()
        if not text or (self._num_calls > 1 and not self._is_parallel):
            return
        index = self._num_calls - 1
        if self._parts and isinstance(last := self._parts[-1], ToolCallPart) and last.index == index:
            self._parts[-1] = ToolCallPart(index, last.name, last.arguments + text)
        else:
            self._parts.append(ToolCallPart(index, None, text))

    def take(self) -> tuple[Part, ...]:
        """The parts since the last time."""
        parts, self._parts = tuple(self._parts), []
        return parts
