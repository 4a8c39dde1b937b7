"""The offsets of every value in a YAML text, taken from the parser's marks and kept by key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml


@dataclass(frozen=True)
class Span:
    """The text of one value is `text[start:end]`. Blank lines and comments after a block are not part of it.

    Only for a mapping: `members` by key, in order; `key_starts`, the offset of each key; `is_flow` if it is
    written in braces; `column` of its keys; `members_end`, the end of its last value.
    """

    start: int
    end: int
    members: dict[str, Span] | None = None
    is_flow: bool = False
    column: int = 0
    members_end: int = 0
    key_starts: dict[str, int] = field(default_factory=dict)


def find_spans(text: str) -> Span | None:
    """The span of the whole document; None for an empty one. Raises yaml.YAMLError."""
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            return _value(next(events), events)
    return None


def _value(event: yaml.Event, events: Iterator[yaml.Event]) -> Span:
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(event, events)
    start, end = _span(event)
    if isinstance(event, yaml.SequenceStartEvent):
        for item in events:
            if isinstance(item, yaml.SequenceEndEvent):
                return Span(start, max(end, _closed(item)))
            end = max(end, _value(item, events).end)
    return Span(start, end)


def _mapping(event: yaml.MappingStartEvent, events: Iterator[yaml.Event]) -> Span:
    members: dict[str, Span] = {}
    key_starts: dict[str, int] = {}
    start, end = _span(event)
    column = event.start_mark.column if event.start_mark else 0
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            closed = max(end, _closed(key))
            return Span(start, closed, members, bool(event.flow_style), column, end, key_starts)
        if not members and key.start_mark:
            column = key.start_mark.column  # the mapping's own mark may be that of its anchor
        key_end = _value(key, events).end
        value = _value(next(events), events)
        end = max(end, key_end, value.end)
        if isinstance(key, yaml.ScalarEvent):
            members[key.value] = value
            key_starts[key.value] = _span(key)[0]
    raise AssertionError("the parser closes every mapping")


def _closed(event: yaml.Event) -> int:
    """The end of a closing bracket, or 0 for a block, whose end mark is where the next value begins."""
    start, end = _span(event)
    return end if start < end else 0


def _span(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    assert event.end_mark is not None
    return event.start_mark.index, event.end_mark.index
