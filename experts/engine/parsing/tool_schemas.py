"""What the tools of a request say about their names and about the types of their parameters."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TEXT = frozenset({"string"})
_WORDS = {"true": "true", "false": "false", "null": "null", "none": "null"}


class ToolSchemas:
    """Of OpenAI's `tools`."""

    def __init__(self, tools: Sequence[Mapping[str, Any]]) -> None:
        functions = [_mapping(tool.get("function")) for tool in tools]
        self._properties = {
            str(function.get("name")): _mapping(_mapping(function.get("parameters")).get("properties"))
            for function in functions
        }

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._properties)

    def is_text(self, name: str, key: str) -> bool:
        """Whether the parameter `key` of function `name` is a string, as is one that is not declared."""
        return self._types(name, key) == _TEXT

    def to_json(self, name: str, key: str, value: str) -> str:
        """The value of a parameter, which the model wrote without quotes, as JSON of its declared type."""
        types = self._types(name, key)
        word = value.strip()
        word = _WORDS.get(word.lower(), word)
        try:
            parsed = json.loads(word, parse_constant=_refuse)
        except ValueError:
            return json.dumps(value, ensure_ascii=False)
        if "string" in types and not types & _json_types(parsed):
            return json.dumps(value, ensure_ascii=False)
        return word

    def _types(self, name: str, key: str) -> frozenset[str]:
        return _types(self._properties.get(name, {}).get(key)) or _TEXT


def _types(schema: object) -> frozenset[str]:
    """The types that a JSON schema allows; empty if it names none."""
    schema = _mapping(schema)
    types = set(map(str, _listed(schema.get("type"))))
    for value in _listed(schema.get("enum")):
        types |= _json_types(value)
    for keyword in ("anyOf", "oneOf", "allOf"):
        for option in _listed(schema.get(keyword)):
            types |= _types(option)
    if "$ref" in schema:  # nearly always the model of an object, or an enum of strings
        types |= {"object", "array", "string"}
    return frozenset(types)


def _json_types(value: object) -> frozenset[str]:
    """The names that JSON schemas have for the type of a value."""
    if value is None:
        return frozenset({"null"})
    if isinstance(value, bool):
        return frozenset({"boolean"})
    if isinstance(value, int | float):
        is_whole = isinstance(value, int) or value.is_integer()
        return frozenset({"number", "integer"} if is_whole else {"number"})
    if isinstance(value, str):
        return _TEXT
    return frozenset({"array" if isinstance(value, list) else "object"})


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _listed(value: object) -> Sequence[Any]:
    if isinstance(value, list | tuple):
        return value
    return () if value is None else (value,)


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
