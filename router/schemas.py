"""JSON schemas of what clients send and get, by name, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from router.neutral import NEUTRAL
from router.openai import MAX_CHOICES, MAX_INT32, AnswerRequest, ChatMessage, CompletionRequest, Strict
from router.responses import Shape

Schema = dict[str, Any]
Described = type[Strict] | type[Shape]


def schemas(models: Iterable[Described]) -> dict[str, Schema]:
    """The schemas of these models and of all they refer to, each under its name."""
    _, described = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Generator,
    )
    named: dict[str, Schema] = described["$defs"]
    return named


class _Generator(GenerateJsonSchema):
    """Adds what the request models accept beyond their types, which pydantic cannot know.

    Their validators see the raw value first: they drop a null and turn one spelling into another.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        described = super().model_schema(schema)
        if not issubclass(schema["cls"], Strict):
            return described
        fields = described["properties"]
        if issubclass(schema["cls"], ChatMessage):
            fields["content"] = {"anyOf": [{"type": "string"}, fields["content"]]}
            fields["tool_calls"] = {"type": "array", "maxItems": 0}
        if issubclass(schema["cls"], AnswerRequest):
            fields["stop"] = {"anyOf": [fields["stop"]["items"], fields["stop"]]}
            fields |= {name: {"enum": [None, *neutral]} for name, neutral in NEUTRAL.items()}
        if issubclass(schema["cls"], CompletionRequest):
            fields["prompt"] = _PROMPT
        for name in fields.keys() - described.get("required", ()):
            fields[name] = _or_null(fields[name])
        return described


_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT32}}
_SEVERAL = {"type": "array", "minItems": 1, "maxItems": MAX_CHOICES, "items": {"anyOf": [_TEXT, _IDS]}}
_PROMPT = {"anyOf": [_TEXT, _IDS, _SEVERAL]}


def _or_null(schema: Schema) -> Schema:
    null = {"type": "null"}
    if None in schema.get("enum", ()) or null in schema.get("anyOf", ()):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], null]}
    default = {"default": schema["default"]} if "default" in schema else {}
    return {"anyOf": [{key: value for key, value in schema.items() if key != "default"}, null], **default}
