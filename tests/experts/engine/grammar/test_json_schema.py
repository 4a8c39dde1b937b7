"""Schemas of which a part would be ignored are refused; names and data that look like keywords are not."""

from __future__ import annotations

from typing import Any

import pytest

from experts.engine.grammar.json_schema import MAX_DEPTH, unsupported_part


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        ({"properties": {"a": {"not": {}}}}, "'not'"),
        ({"items": [{"if": {}, "then": {}}]}, "'if'"),
        ({"$defs": {"a": {"multipleOf": 2}}}, "'multipleOf'"),
        ({"uniqueItems": True}, "'uniqueItems'"),
        ({"allOf": [{}, {}]}, "'allOf'"),
        ({"pattern": "a", "maxLength": 3}, "'pattern' together with 'maxLength'"),
        (
            {"patternProperties": {"a": {}}, "properties": {}},
            "'patternProperties' together with",
        ),
        (nested(MAX_DEPTH + 1), "levels deep"),
    ],
)
def test_what_a_grammar_cannot_express_is_named(schema: Any, reason: str):
    assert reason in (unsupported_part(schema) or "")


@pytest.mark.parametrize(
    "schema",
    [
        True,
        {},
        {"properties": {"not": {"type": "string"}, "if": {}, "multipleOf": {"type": "integer"}}},
        {"enum": [{"not": 1}], "default": {"if": 1}, "const": {"contains": 1}},
        {"uniqueItems": False, "allOf": [{"type": "string"}]},
        {"type": "string", "pattern": "a"},
        {"type": "string", "maxLength": 3},
        nested(MAX_DEPTH),
    ],
)
def test_everything_else_is_left_to_the_library(schema: Any):
    assert unsupported_part(schema) is None
