"""Edit one value in the text of a YAML file and leave every other byte as it is.

No YAML writer keeps comments, anchors and line breaks exactly as a person wrote them. So the file is not
rewritten: the new lines go where the parser says that a block ends. The result must parse to exactly what
was asked for; otherwise the edit is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cluster.errors import ConfigError
from cluster.yaml_files.reader import parse_yaml
from cluster.yaml_files.spans import Span, find_spans

_INDENT = 2
_EMPTY_VALUES = ("", "{}", "{ }", "null", "~")


def with_value(text: str, path: Path, keys: Sequence[str], value: Any) -> str:
    """The `text` of `path` with `value` under the nested `keys`; blocks that are missing are added.

    Raises:
        ConfigError: the value stands where it cannot be edited safely (in an alias, say). The message has
            the lines to put there by hand.
    """
    wanted = _nested(parse_yaml(text, path), keys, value)
    # YAML has more ways to write a mapping than this module understands; the comparison finds them all.
    with suppress(_Uneditable, ConfigError):
        edited = _edited(text, find_spans(text), keys, value)
        if parse_yaml(edited, path) == wanted:
            return edited
    by_hand = _flow(_nested({}, keys, value))[1:-1]
    raise ConfigError(
        [f"{path}: {'.'.join(keys)}: cannot be changed safely where it stands; add by hand: {by_hand}"]
    )


def without_member(text: str, path: Path, keys: Sequence[str]) -> str:
    """The `text` of `path` without the member under the nested `keys`.

    Comments above the member stay, because they may be about more than it. A block that loses its only member
    is left with nothing below its key, which YAML reads as null; braces are left empty.

    Raises:
        ConfigError: the member cannot be removed safely; it has to be removed by hand.
    """
    data = parse_yaml(text, path)
    empty_values: tuple[Any, ...] = (None, {})
    wanted = [_without_nested(data, keys, if_empty) for if_empty in empty_values]
    with suppress(_Uneditable, ConfigError):
        edited = _without(text, find_spans(text), keys)
        if parse_yaml(edited, path) in wanted:
            return edited
    raise ConfigError([f"{path}: {'.'.join(keys)}: cannot be removed safely; remove its lines by hand"])


class _Uneditable(Exception):
    """The value stands at a place that is not safe to write to."""


def _edited(text: str, root: Span | None, keys: Sequence[str], value: Any) -> str:
    """Goes down the keys that exist, then adds the rest as a member or replaces the value."""
    parent, span = None, root
    for depth, key in enumerate(keys):
        if span is None or not span.members:
            return _with_first_member(text, parent, span, _nested({}, keys[depth:], value))
        if key not in span.members:
            return _with_member(text, span, _nested({}, keys[depth:], value))
        parent, span = span, span.members[key]
    assert span is not None
    return _with_text(text, span, _flow(value))


def _without(text: str, root: Span | None, keys: Sequence[str]) -> str:
    mapping = root
    for key in keys[:-1]:
        mapping = mapping.members.get(key) if mapping and mapping.members else None
    if mapping is None or not mapping.members or keys[-1] not in mapping.key_starts:
        raise _Uneditable
    if mapping.is_flow:
        return _without_flow_member(text, mapping, keys[-1])
    start = text.rfind("\n", 0, mapping.key_starts[keys[-1]]) + 1
    if text[start : mapping.key_starts[keys[-1]]].strip(" "):
        raise _Uneditable
    return text[:start] + text[_end_of_lines(text, mapping.members[keys[-1]].end, mapping.column) :]


def _without_flow_member(text: str, mapping: Span, key: str) -> str:
    """Removes the member of a mapping in braces, and the comma before or after it."""
    assert mapping.members is not None
    names = list(mapping.key_starts)
    position = names.index(key)
    start, end = mapping.key_starts[key], mapping.members[key].end
    if position + 1 < len(names):
        end = mapping.key_starts[names[position + 1]]
    elif position:
        start = mapping.members[names[position - 1]].end
    if "#" in text[start:end]:
        raise _Uneditable
    return text[:start] + text[end:]


def _with_member(text: str, mapping: Span, member: Mapping[str, Any]) -> str:
    if mapping.is_flow:
        return f"{text[: mapping.members_end]}, {_flow(member)[1:-1]}{text[mapping.members_end :]}"
    return _with_lines(text, mapping.end, mapping.column, member)


def _with_first_member(text: str, parent: Span | None, empty: Span | None, member: Any) -> str:
    """Turns `experts: {}`, or a key with nothing behind it, into a block."""
    if parent is None or empty is None or text[empty.start : empty.end] not in _EMPTY_VALUES:
        raise _Uneditable
    if parent.is_flow:
        return _with_text(text, empty, _flow(member))
    kept = text[: empty.start].rstrip(" ") + text[empty.end :]
    end = len(text[: empty.start].rstrip(" "))
    return _with_lines(kept, end, parent.column + _INDENT, member)


def _with_text(text: str, span: Span, new: str) -> str:
    if "\n" in text[span.start : span.end]:  # several lines may have comments between them
        raise _Uneditable
    space = " " if text[span.start - 1] == ":" else ""
    return text[: span.start] + space + new + text[span.end :]


def _with_lines(text: str, end: int, column: int, member: Mapping[str, Any]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _end_of_lines(text, end, column)
    block = _dump(dict(member), None if any(isinstance(v, Mapping) for v in member.values()) else False)
    lines = "".join(f"{' ' * column}{line}{newline}" for line in block.splitlines())
    return text[:at] + ("" if text[:at].endswith("\n") else newline) + lines + text[at:]


def _end_of_lines(text: str, end: int, column: int) -> int:
    """The start of the line after `end`, and after comments below it that are indented more than `column`."""
    newline = text.find("\n", max(end - 1, 0))  # a block scalar ends after its last line break
    at = newline + 1 or len(text)
    deeper = re.compile(rf" {{{column + 1},}}#[^\n]*(\n|$)")
    while comment := deeper.match(text, at):
        at = comment.end()
    return at


def _nested(data: Any, keys: Sequence[str], value: Any) -> Any:
    """`data` with `value` under the nested `keys`."""
    if not keys:
        return value
    members = data if isinstance(data, Mapping) else {}
    return {**members, keys[0]: _nested(members.get(keys[0]), keys[1:], value)}


def _without_nested(data: Any, keys: Sequence[str], if_empty: Any) -> Any:
    """`data` without the member under the nested `keys`; a mapping that has no other becomes `if_empty`."""
    members = data if isinstance(data, Mapping) else {}
    if len(keys) > 1:
        return {**members, keys[0]: _without_nested(members.get(keys[0]), keys[1:], if_empty)}
    return {key: value for key, value in members.items() if key != keys[0]} or if_empty


def _flow(value: Any) -> str:
    return _dump([value], True).strip()[1:-1]


def _dump(value: Any, flow: bool | None) -> str:
    """`flow` None: a mapping without further blocks in it is written in braces."""
    text: str = yaml.safe_dump(
        value, default_flow_style=flow, sort_keys=False, width=math.inf, allow_unicode=True
    )
    return text
