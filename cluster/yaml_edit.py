"""Change values of a cluster.yaml and leave every other byte of it as it is.

No YAML writer keeps comments, anchors and line breaks quite as a person set them. So the file is not written
anew: the new lines are put where the parser says that a block ends, and what comes out must mean exactly what
was asked for, or the file is left alone.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from cluster.config import check_config
from cluster.errors import ConfigError
from cluster.yaml_file import parse_yaml, read_text
from cluster.yaml_places import Place, find_places

_INDENT = 2
_NOTHING = ("", "{}", "{ }", "null", "~")


def add_expert(path: Path, name: str, entry: Mapping[str, Any]) -> None:
    """Add an expert to the file, after those that are there.

    Raises:
        ConfigError: there is one of that name, or as `set_value`.
    """
    replace_text(path, with_expert(path, name, entry))


def set_value(path: Path, keys: Sequence[str], value: Any) -> None:
    """Set what stands under the nested `keys`; blocks that are missing are added.

    Raises:
        ConfigError: the result would be no valid cluster.yaml, cannot be written, or the place is one that
            cannot be edited safely (an alias, say); then the message has what to put there by hand.
    """
    replace_text(path, with_value(path, keys, value))


def set_values(path: Path, values: Mapping[Sequence[str], Any]) -> None:
    """`set_value` for several places at once: the result as a whole has to be valid. Raises ConfigError."""
    text = read_text(path)
    for keys, value in values.items():
        text = _with_value(text, path, keys, value)
    replace_text(path, text)


def remove_expert(path: Path, name: str) -> None:
    """Take an expert out of the file. Raises ConfigError if it has none of that name, or as `set_value`."""
    replace_text(path, without_expert(path, name))


def with_expert(path: Path, name: str, entry: Mapping[str, Any]) -> str:
    """What the file's text would be with one more expert. Raises ConfigError."""
    data = parse_yaml(read_text(path), path)
    experts = data.get("experts") if isinstance(data, Mapping) else None
    if isinstance(experts, Mapping) and name in experts:
        raise ConfigError([f"{path}: experts.{name}: is there already; choose another name or remove it"])
    return with_value(path, ("experts", name), entry)


def without_expert(path: Path, name: str) -> str:
    """What the file's text would be with one expert less. Raises ConfigError."""
    text = read_text(path)
    data = parse_yaml(text, path)
    experts = data.get("experts") if isinstance(data, Mapping) else None
    experts = experts if isinstance(experts, Mapping) else {}
    if name not in experts:
        known = ", ".join(map(str, experts)) or "none"
        raise ConfigError([f"{path}: experts.{name}: there is no such expert; experts: {known}"])
    others = {other: entry for other, entry in experts.items() if other != name}
    wanted = {key: others if key == "experts" else value for key, value in data.items()}
    if not others:  # a key with nothing below it would mean something else
        del wanted["experts"]
    with suppress(_Uneditable, ConfigError):
        edited = _without(text, find_places(text), ("experts", name) if others else ("experts",))
        if parse_yaml(edited, path) == wanted:
            return edited
    raise ConfigError(
        [f"{path}: experts.{name}: cannot be taken out safely; remove the block by hand and run `etr apply`"]
    )


def with_value(path: Path, keys: Sequence[str], value: Any) -> str:
    """What the file's text would be with `value` under the nested `keys`. Raises ConfigError."""
    return _with_value(read_text(path), path, keys, value)


def _with_value(text: str, path: Path, keys: Sequence[str], value: Any) -> str:
    wanted = _nested(parse_yaml(text, path), keys, value)
    # YAML has more ways of writing a mapping than are understood here; the comparison finds them all.
    with suppress(_Uneditable, ConfigError):
        edited = _edited(text, find_places(text), keys, value)
        if parse_yaml(edited, path) == wanted:
            return edited
    by_hand = _flow(_nested({}, keys, value))[1:-1]
    raise ConfigError(
        [f"{path}: {'.'.join(keys)}: stands where it cannot be changed safely; put there by hand: {by_hand}"]
    )


def replace_text(path: Path, text: str) -> None:
    """Give the file a new text at once: whoever reads it meanwhile sees the old or the new one.

    Raises:
        ConfigError: the text is no valid cluster.yaml, or cannot be written.
    """
    check_config(parse_yaml(text, path), path)
    target = path.resolve()  # a link stays a link
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(text.encode())
        shutil.copymode(target, unfinished)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise ConfigError(
            [f"{path}: cannot be written: {error.strerror}; make its folder writable"]
        ) from error


class _Uneditable(Exception):
    """The value has no place that is safe to write to."""


def _edited(text: str, root: Place | None, keys: Sequence[str], value: Any) -> str:
    """Goes down the keys as far as they are there; adds the rest as a member, or replaces the value."""
    parent, place = None, root
    for depth, key in enumerate(keys):
        if place is None or not place.members:
            return _with_first_member(text, parent, place, _nested({}, keys[depth:], value))
        if key not in place.members:
            return _with_member(text, place, _nested({}, keys[depth:], value))
        parent, place = place, place.members[key]
    assert place is not None
    return _with_text(text, place, _flow(value))


def _without(text: str, root: Place | None, keys: Sequence[str]) -> str:
    """Takes the member under `keys` out; comments above it stay, for they may be about more than it."""
    mapping = root
    for key in keys[:-1]:
        mapping = mapping.members.get(key) if mapping and mapping.members else None
    if mapping is None or not mapping.members or keys[-1] not in mapping.key_starts:
        raise _Uneditable
    names, start = list(mapping.key_starts), mapping.key_starts[keys[-1]]
    end, position = mapping.members[keys[-1]].end, names.index(keys[-1])
    if not mapping.is_flow:
        line_start = text.rfind("\n", 0, start) + 1
        if text[line_start:start].strip(" "):
            raise _Uneditable
        return text[:line_start] + text[_end_of_lines(text, end, mapping.column) :]
    if position + 1 < len(names):
        end = mapping.key_starts[names[position + 1]]
    elif position:
        start = mapping.members[names[position - 1]].end
    if "#" in text[start:end]:
        raise _Uneditable
    return text[:start] + text[end:]


def _with_member(text: str, mapping: Place, member: Mapping[str, Any]) -> str:
    if mapping.is_flow:
        return f"{text[: mapping.members_end]}, {_flow(member)[1:-1]}{text[mapping.members_end :]}"
    return _with_lines(text, mapping.end, mapping.column, member)


def _with_first_member(text: str, parent: Place | None, empty: Place | None, member: Any) -> str:
    """`experts: {}`, or a key with nothing behind it, becomes a block."""
    if parent is None or empty is None or text[empty.start : empty.end] not in _NOTHING:
        raise _Uneditable
    if parent.is_flow:
        return _with_text(text, empty, _flow(member))
    kept = text[: empty.start].rstrip(" ") + text[empty.end :]
    end = len(text[: empty.start].rstrip(" "))
    return _with_lines(kept, end, parent.column + _INDENT, member)


def _with_text(text: str, place: Place, new: str) -> str:
    if "\n" in text[place.start : place.end]:  # there may be comments in between
        raise _Uneditable
    space = " " if text[place.start - 1] == ":" else ""
    return text[: place.start] + space + new + text[place.end :]


def _with_lines(text: str, end: int, column: int, member: Mapping[str, Any]) -> str:
    newline = "\r\n" if "\r\n" in text else "\n"
    at = _end_of_lines(text, end, column)
    block = _dump(dict(member), None if any(isinstance(v, Mapping) for v in member.values()) else False)
    lines = "".join(f"{' ' * column}{line}{newline}" for line in block.splitlines())
    return text[:at] + ("" if text[:at].endswith("\n") else newline) + lines + text[at:]


def _end_of_lines(text: str, end: int, column: int) -> int:
    """Past the line of `end`, and past comments below it that are indented as if they belonged to it."""
    newline = text.find("\n", max(end - 1, 0))  # a text block ends behind its last line break
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


def _flow(value: Any) -> str:
    return _dump([value], True).strip()[1:-1]


def _dump(value: Any, flow: bool | None) -> str:
    """`flow` None: what has no blocks inside is written in braces."""
    text: str = yaml.safe_dump(
        value, default_flow_style=flow, sort_keys=False, width=math.inf, allow_unicode=True
    )
    return text
