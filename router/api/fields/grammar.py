"""The fields that give the form of an answer: a JSON schema, a regular expression, a grammar, or a choice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Self

from pydantic import Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.strict import MAX_NAMES, JsonObject, StrictRequest
from router.errors import InvalidRequest
from router.sampling import Grammar, GrammarKind

Source = Annotated[str, Field(min_length=1)]


def _as_schema(value: Any) -> Any:
    # Not a union of types: its errors would name a type in the path of the field.
    if (isinstance(value, str) and value) or isinstance(value, dict):
        return value
    raise PydanticCustomError("schema", "must be a JSON schema: an object, or a text with JSON")


Schema = Annotated[
    str | dict[str, Any], PlainValidator(_as_schema, json_schema_input_type=Source | dict[str, Any])
]
Texts = Annotated[list[Source], Field(min_length=1, max_length=MAX_NAMES, fail_fast=True)]


_TYPES = ("text", "json_object", "json_schema", "structural_tag")
_RESPONSE_FORMAT: dict[str, Any] = {
    "type": "object",
    "properties": {
        "type": {"enum": [*_TYPES, "json", "regex"]},
        "json_schema": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "schema": {"type": "object"}},
            "required": ["schema"],
        },
    },
    "required": ["type"],
}


class StructuredOutputs(StrictRequest):
    """vLLM's object. Exactly one of these."""

    # `json` is taken: pydantic's models have a method of that name.
    json_schema: Schema | None = Field(None, alias="json")
    regex: Source | None = None
    choice: Texts | None = None
    grammar: Source | None = None
    json_object: bool | None = None
    structural_tag: Schema | None = None
    whitespace_pattern: str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False

    @model_validator(mode="after")
    def _has_no_unsupported_option(self) -> Self:
        for name in ("whitespace_pattern", "disable_any_whitespace", "disable_additional_properties"):
            if getattr(self, name):
                raise _unsupported(f"structured_outputs.{name}")
        return self

    def grammars(self) -> Iterator[Grammar]:
        if self.json_schema is not None:
            yield _schema_grammar(self.json_schema, "structured_outputs.json")
        if self.regex is not None:
            yield Grammar(GrammarKind.REGEX, self.regex)
        if self.choice is not None:
            yield Grammar(GrammarKind.CHOICE, json.dumps(self.choice))
        if self.grammar is not None:
            yield Grammar(GrammarKind.GRAMMAR, self.grammar)
        if self.json_object:
            yield Grammar(GrammarKind.JSON_OBJECT)
        if self.structural_tag is not None:
            source = _source(self.structural_tag, "structured_outputs.structural_tag")
            yield Grammar(GrammarKind.STRUCTURAL_TAG, source)


class GrammarFields(StrictRequest):
    """At most one of these fields may ask for a form."""

    response_format: Annotated[JsonObject, WithJsonSchema(_RESPONSE_FORMAT)] | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: Schema | None = None
    guided_regex: Source | None = None
    guided_choice: Texts | None = None
    guided_grammar: Source | None = None
    regex: Source | None = None
    ebnf: Source | None = None
    json_schema: Schema | None = None
    # `grammar` is the name of the property that all of these fields end in.
    gbnf: Source | None = Field(None, alias="grammar")

    @model_validator(mode="after")
    def _asks_for_one_form(self) -> Self:
        forms = self._forms
        if len(forms) > 1:
            (first, _), (second, _) = forms[:2]
            raise InvalidRequest(f"{first} and {second} both give the form of the answer: send one", second)
        return self

    @property
    def grammar(self) -> Grammar | None:
        """What the answer has to match; None leaves it free."""
        return self._forms[0][1] if self._forms else None

    @cached_property
    def _forms(self) -> list[tuple[str, Grammar]]:
        if self.model_fields_set.isdisjoint(GrammarFields.model_fields):  # nearly always
            return []
        return list(self._find_forms())

    def _find_forms(self) -> Iterator[tuple[str, Grammar]]:
        if self.response_format is not None and (grammar := _from_response_format(self.response_format)):
            yield "response_format", grammar
        if self.structured_outputs is not None:
            grammars = list(self.structured_outputs.grammars())
            if len(grammars) != 1:
                raise InvalidRequest(
                    "structured_outputs needs exactly one of json, regex, choice, grammar, json_object and "
                    "structural_tag",
                    "structured_outputs",
                )
            yield "structured_outputs", grammars[0]
        if self.guided_choice is not None:
            yield "guided_choice", Grammar(GrammarKind.CHOICE, json.dumps(self.guided_choice))
        schemas = {"guided_json": self.guided_json, "json_schema": self.json_schema}
        for name, schema in schemas.items():
            if schema is not None:
                yield name, _schema_grammar(schema, name)
        texts = {
            "guided_regex": (GrammarKind.REGEX, self.guided_regex),
            "regex": (GrammarKind.REGEX, self.regex),
            "guided_grammar": (GrammarKind.GRAMMAR, self.guided_grammar),
            "ebnf": (GrammarKind.GRAMMAR, self.ebnf),
            "grammar": (GrammarKind.GRAMMAR, self.gbnf),
        }
        for name, (kind, source) in texts.items():
            if source is not None:
                yield name, Grammar(kind, source)


def _from_response_format(form: Mapping[str, Any]) -> Grammar | None:
    """OpenAI's object, with the forms that llama.cpp (`schema`) and TGI (`value`) also read."""
    match form.get("type"):
        case "text":
            return None
        case "json_object" | "json":
            schema = form.get("schema", form.get("value"))
            return Grammar(GrammarKind.JSON_OBJECT) if schema is None else _format_schema(schema)
        case "json_schema":
            inner = form.get("json_schema", form)
            if not isinstance(inner, Mapping):
                raise InvalidRequest("response_format.json_schema must be an object", _JSON_SCHEMA)
            schema = inner.get("schema", inner.get("value"))
            if schema is None:
                raise InvalidRequest("response_format.json_schema.schema is missing", _JSON_SCHEMA)
            return _format_schema(schema)
        case "regex" if isinstance(source := form.get("value"), str) and source:
            return Grammar(GrammarKind.REGEX, source)
        case "structural_tag":
            return Grammar(GrammarKind.STRUCTURAL_TAG, json.dumps(form))
    raise InvalidRequest(
        f"response_format.type must be one of {', '.join(_TYPES)}",
        "response_format.type",
    )


_JSON_SCHEMA = "response_format.json_schema"


def _format_schema(schema: Any) -> Grammar:
    if not isinstance(schema, Mapping | bool):
        raise InvalidRequest("response_format: the schema must be an object", _JSON_SCHEMA)
    return _schema_grammar(schema, _JSON_SCHEMA)


def _schema_grammar(schema: Mapping[str, Any] | bool | str, field: str) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, _source(schema, field))


def _source(value: Mapping[str, Any] | bool | str, field: str) -> str:
    """The value as JSON. A text has to be JSON already."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest(f"{field} is not valid JSON", field) from error
    return value


def _unsupported(field: str) -> InvalidRequest:
    return InvalidRequest(f"{field} is not supported", field, "unsupported_parameter")
