"""What differs between two trees of settings, in lines that people read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MISSING = object()
_MAX_SHOWN = 60  # characters of a value; tokens and texts are longer


@dataclass(frozen=True, slots=True)
class Difference:
    """`path` is the dotted path of a value; `old` or `new` is MISSING if only the other tree has it."""

    path: str
    old: Any
    new: Any

    def __str__(self) -> str:
        old, new = _shown(self.old), _shown(self.new)
        if self.new is MISSING:
            return f"{self.path}: removed"
        if self.old is MISSING:
            return f"{self.path}: added: {new}" if new else f"{self.path}: added"
        return f"{self.path}: {old} → {new}" if old and new else f"{self.path}: changed"


def differences(old: Any, new: Any, path: str = "") -> Iterator[Difference]:
    """Every leaf that is not the same in both, sorted by path.

    Lists of equal length are compared item by item. An item that has a `groupName` or `name` goes by it.
    """
    if isinstance(new, Mapping) and new and old is MISSING:
        old = {}
    if isinstance(old, Mapping) and old and new is MISSING:
        new = {}
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in sorted({**old, **new}):
            yield from differences(old.get(key, MISSING), new.get(key, MISSING), _join(path, key))
    elif _is_list(old) and _is_list(new) and len(old) == len(new):
        for index, (before, after) in enumerate(zip(old, new, strict=True)):
            yield from differences(before, after, _join(path, _label(after, index)))
    elif old != new:
        yield Difference(path, old, new)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _label(item: Any, index: int) -> str:
    named = item if isinstance(item, Mapping) else {}
    return str(named.get("groupName") or named.get("name") or index)


def _shown(value: Any) -> str:
    """A value that is short enough to be read, else nothing."""
    text = str(value)
    return text if len(text) <= _MAX_SHOWN else ""
