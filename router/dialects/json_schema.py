"""The JSON schemas of requests and responses, for the OpenAPI document."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, models_json_schema
from pydantic_core import core_schema

from router.api.fields.messages import ChatMessage
from router.api.fields.parts import ContentPart
from router.api.fields.strict import MAX_INT32, StrictRequest
from router.api.fields.table import EndpointRequest
from router.api.requests import MAX_CHOICES, CompletionRequest

Schema = dict[str, Any]
Described = type[BaseModel]


def schemas(models: Iterable[Described]) -> dict[str, Schema]:
    """The schemas of the models and of all models that they refer to, by name."""
    _, described = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)],
        ref_template="#/components/schemas/{model}",
        schema_generator=_Generator,
    )
    named: dict[str, Schema] = described["$defs"]
    return named


class _Generator(GenerateJsonSchema):
    """Adds values that the request models accept beyond their types.

    Their validators run before the types are checked: they drop nulls and convert other forms, which pydantic
    does not know.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> Schema:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        described = super().dict_schema(schema)
        # Pydantic leaves out that keys of any other form are refused.
        return {**described, "additionalProperties": False} if "patternProperties" in described else described

    def model_schema(self, schema: core_schema.ModelSchema) -> Schema:
        described = super().model_schema(schema)
        if not issubclass(schema["cls"], StrictRequest):
            return described
        fields = described["properties"]
        if issubclass(schema["cls"], EndpointRequest):
            fields |= _refused_fields(schema["cls"])
        if issubclass(schema["cls"], CompletionRequest):
            fields["prompt"] = _ANY_PROMPT
        for name in fields.keys() - described.get("required", ()):
            fields[name] = _or_null(fields[name])
        if issubclass(schema["cls"], ChatMessage):
            return {**described, "anyOf": _BY_ROLE}
        if issubclass(schema["cls"], ContentPart):
            return {"anyOf": [{**described, "anyOf": _BY_TYPE}, _REFUSAL]}
        return described


def _refused_fields(kind: type[EndpointRequest]) -> dict[str, Schema]:
    return {name: {"enum": [None, *field.accepted]} for name, field in kind.refused.items()}


# Every other message has content, and no calls.
_BY_ROLE: list[Schema] = [
    {"properties": {"role": {"const": "assistant"}}},
    {
        "required": ["content"],
        "properties": {
            "content": {"not": {"type": "null"}},
            "tool_calls": {"maxItems": 0},
            "function_call": {"type": "null"},
        },
    },
]
# A part has the field that its type names.
_BY_TYPE: list[Schema] = [
    {
        "required": [name],
        "properties": {"type": {"const": name}, name: {"not": {"type": "null"}}},
    }
    for name in ("text", "image_url", "input_audio", "file")
]
_REFUSAL = {
    "type": "object",
    "properties": {"type": {"const": "refusal"}, "refusal": {"type": "string"}},
    "required": ["type", "refusal"],
}
_TEXT = {"type": "string", "minLength": 1}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0, "maximum": MAX_INT32}}
_PROMPTS = {"type": "array", "minItems": 1, "maxItems": MAX_CHOICES, "items": {"anyOf": [_TEXT, _IDS]}}
_ANY_PROMPT = {"anyOf": [_TEXT, _IDS, _PROMPTS]}


def _or_null(schema: Schema) -> Schema:
    null = {"type": "null"}
    if None in schema.get("enum", ()) or null in schema.get("anyOf", ()):
        return schema
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], null]}
    default = {"default": schema["default"]} if "default" in schema else {}
    return {"anyOf": [{key: value for key, value in schema.items() if key != "default"}, null], **default}
