"""Where every value of a YAML file stands, as offsets into its text: the parser's marks, kept by key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml


@dataclass(frozen=True)
class Place:
    """A value's text is `text[start:end]`; what follows the last value of a block is not part of it.

    Of a mapping: `members` by key in order, `key_starts` where each key begins, `is_flow` if it is written in
    braces, `column` where its keys stand, and `members_end`, which is before a closing brace.
    """

    start: int
    end: int
    members: dict[str, Place] | None = None
    is_flow: bool = False
    column: int = 0
    members_end: int = 0
    key_starts: dict[str, int] = field(default_factory=dict)


def find_places(text: str) -> Place | None:
    """The place of the whole document's value; None for a file without one. Raises yaml.YAMLError."""
    events = yaml.parse(text, Loader=yaml.SafeLoader)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            return _value(next(events), events)
    return None


def _value(event: yaml.Event, events: Iterator[yaml.Event]) -> Place:
    if isinstance(event, yaml.MappingStartEvent):
        return _mapping(event, events)
    start, end = _span(event)
    if isinstance(event, yaml.SequenceStartEvent):
        for item in events:
            if isinstance(item, yaml.SequenceEndEvent):
                return Place(start, max(end, _closed(item)))
            end = max(end, _value(item, events).end)
    return Place(start, end)


def _mapping(event: yaml.MappingStartEvent, events: Iterator[yaml.Event]) -> Place:
    members: dict[str, Place] = {}
    key_starts: dict[str, int] = {}
    start, end = _span(event)
    column = event.start_mark.column if event.start_mark else 0
    for key in events:
        if isinstance(key, yaml.MappingEndEvent):
            closed = max(end, _closed(key))
            return Place(start, closed, members, bool(event.flow_style), column, end, key_starts)
        if not members and key.start_mark:
            column = key.start_mark.column  # not the mapping's own, which is an anchor's where there is one
        key_end = _value(key, events).end
        value = _value(next(events), events)
        end = max(end, key_end, value.end)
        if isinstance(key, yaml.ScalarEvent):
            members[key.value] = value
            key_starts[key.value] = _span(key)[0]
    raise AssertionError("the parser closes every mapping")


def _closed(event: yaml.Event) -> int:
    """Where a closing bracket ends. A block has none: its end mark is where the next thing begins."""
    start, end = _span(event)
    return end if start < end else 0


def _span(event: yaml.Event) -> tuple[int, int]:
    assert event.start_mark is not None
    assert event.end_mark is not None
    return event.start_mark.index, event.end_mark.index
