"""JSON schemas that a grammar cannot express: refused, because a part of them would be ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

MAX_DEPTH = 64

# Keywords that xgrammar ignores.
IGNORED_KEYWORDS = (
    "not",
    "if",
    "then",
    "else",
    "dependentRequired",
    "dependentSchemas",
    "dependencies",
    "multipleOf",
    "contains",
    "minContains",
    "maxContains",
)
# Pairs of which it applies only one.
EXCLUSIVE_KEYWORDS = (
    (("pattern", "format"), ("minLength", "maxLength")),
    (("patternProperties",), ("properties", "propertyNames")),
    (("propertyNames",), ("properties",)),
)
_DATA = ("const", "enum", "default", "examples", "example")
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")


def unsupported_part(schema: Any) -> str | None:
    """What of a JSON schema a grammar cannot hold, in words; None if it can be followed exactly."""
    for depth, part in _parts(schema):
        if depth > MAX_DEPTH:
            return f"it is nested more than {MAX_DEPTH} levels deep"
        if found := next((word for word in IGNORED_KEYWORDS if word in part), None):
            return f"'{found}' is not supported"
        if part.get("uniqueItems") is True:
            return "'uniqueItems' is not supported"
        if isinstance(part.get("allOf"), list) and len(part["allOf"]) > 1:
            return "'allOf' of several schemas is not supported; merge them"
        for some, others in EXCLUSIVE_KEYWORDS:
            pair = [next((word for word in words if word in part), None) for words in (some, others)]
            if all(pair):
                return f"'{pair[0]}' together with '{pair[1]}' is not supported"
    return None


def _parts(schema: Any, depth: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
    """Every schema in a schema, with its depth; nothing below one that is too deep."""
    if isinstance(schema, list):
        for item in schema:
            yield from _parts(item, depth)
    if not isinstance(schema, dict):
        return
    yield depth, schema
    if depth > MAX_DEPTH:
        return
    for keyword, value in schema.items():
        if keyword in _BY_NAME and isinstance(value, dict):
            yield from _parts(list(value.values()), depth + 1)
        elif keyword not in _DATA:
            yield from _parts(value, depth + 1)
