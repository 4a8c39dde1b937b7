"""The form of an answer: every way to ask for one, and that it is the only one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from router.api.requests import ChatRequest, CompletionRequest
from router.sampling import GrammarKind
from tests.router.api.fields.asked import chat, options, refusal, text

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"const": None}}}
JSON_SCHEMA = (GrammarKind.JSON_SCHEMA, json.dumps(SCHEMA))
TAG = {"type": "structural_tag", "structures": [], "triggers": ["<f"]}

OPENAI = {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}

FORMS: list[tuple[dict[str, Any], tuple[GrammarKind, str]]] = [
    ({"response_format": {"type": "json_object"}}, (GrammarKind.JSON_OBJECT, "")),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, JSON_SCHEMA),
    ({"response_format": {"type": "json", "value": SCHEMA}}, JSON_SCHEMA),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, JSON_SCHEMA),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
        JSON_SCHEMA,
    ),
    ({"response_format": {"type": "regex", "value": "[0-9]+"}}, (GrammarKind.REGEX, "[0-9]+")),
    ({"response_format": TAG}, (GrammarKind.STRUCTURAL_TAG, json.dumps(TAG))),
    ({"structured_outputs": {"json": SCHEMA}}, JSON_SCHEMA),
    ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, JSON_SCHEMA),
    ({"structured_outputs": {"regex": "a|b", "json": None}}, (GrammarKind.REGEX, "a|b")),
    ({"structured_outputs": {"choice": ["yes", "nö"]}}, (GrammarKind.CHOICE, json.dumps(["yes", "nö"]))),
    ({"structured_outputs": {"grammar": "root ::= x"}}, (GrammarKind.GRAMMAR, "root ::= x")),
    ({"structured_outputs": {"json_object": True}}, (GrammarKind.JSON_OBJECT, "")),
    (
        {"structured_outputs": {"structural_tag": json.dumps(TAG)}},
        (GrammarKind.STRUCTURAL_TAG, json.dumps(TAG)),
    ),
    ({"guided_json": SCHEMA}, JSON_SCHEMA),
    ({"guided_json": json.dumps(SCHEMA)}, JSON_SCHEMA),
    ({"json_schema": SCHEMA}, JSON_SCHEMA),
    ({"guided_regex": "a"}, (GrammarKind.REGEX, "a")),
    ({"regex": "a"}, (GrammarKind.REGEX, "a")),
    ({"guided_choice": ["a", "b"]}, (GrammarKind.CHOICE, '["a", "b"]')),
    ({"guided_grammar": "root ::= x"}, (GrammarKind.GRAMMAR, "root ::= x")),
    ({"ebnf": "root ::= x"}, (GrammarKind.GRAMMAR, "root ::= x")),
    ({"grammar": "root ::= x"}, (GrammarKind.GRAMMAR, "root ::= x")),
]


@pytest.mark.parametrize(("fields", "form"), FORMS)
def test_every_field_for_a_form_is_understood(fields: dict[str, Any], form: tuple[GrammarKind, str]):
    for request in (chat(**fields), text(**fields)):
        grammar = options(request).grammar
        assert grammar is not None
        assert (grammar.kind, grammar.source) == form


@pytest.mark.parametrize(
    "fields",
    [
        {"response_format": {"type": "text"}},
        {"response_format": None, "structured_outputs": None, "guided_json": None},
    ],
)
def test_an_answer_is_free_if_no_form_is_asked_for(fields: dict[str, Any]):
    assert chat(**fields).sampling(0).options is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": 5}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "schema": "{}"}}, "response_format.json_schema"),
        ({"structured_outputs": {}}, "structured_outputs"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json"),
        (
            {"structured_outputs": {"regex": "a", "whitespace_pattern": " "}},
            "structured_outputs.whitespace_pattern",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_json": [1]}, "guided_json"),
        ({"guided_json": ""}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_choice": ["a", 1]}, "guided_choice.1"),
        ({"guided_choice": ["a"] * 1025}, "guided_choice"),
        ({"guided_regex": ""}, "guided_regex"),
        ({"guided_regex": "a", "guided_choice": ["a"]}, "guided_regex"),
        ({"response_format": {"type": "json_object"}, "grammar": "root ::= x"}, "grammar"),
    ],
)
def test_a_form_that_cannot_be_understood_is_refused_by_name(fields: dict[str, Any], param: str):
    for kind in (ChatRequest, CompletionRequest):
        assert refusal(kind, **fields).param == param


def test_a_schema_nested_too_deeply_is_refused():
    assert refusal(ChatRequest, guided_json="[" * 100_000).param == "guided_json"
