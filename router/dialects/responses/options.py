"""The options of a request that are objects: the form of the text, and how models think."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.strict import JsonObject, Name, StrictRequest
from router.api.fields.template import Effort

Summary = Literal["auto", "concise", "detailed"]
# The others concern items that no answer here has.
Include = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "web_search_call.action.sources",
    "web_search_call.results",
]


class TextFormat(StrictRequest):
    """`json_schema` needs a `schema`."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    name: Name | None = None
    description: str | None = None
    # `schema` is taken: pydantic's models have a method of that name.
    json_schema: JsonObject | None = Field(None, alias="schema")
    strict: bool | None = None

    @model_validator(mode="after")
    def _has_its_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise PydanticCustomError("schema", "type json_schema, and no other, needs a schema")
        return self

    def given(self) -> dict[str, Any]:
        """As a client sends it."""
        return self.model_dump(by_alias=True, exclude_none=True)


class TextOptions(StrictRequest):
    format: TextFormat = TextFormat()
    verbosity: Literal["low", "medium", "high"] = "medium"

    @model_validator(mode="after")
    def _has_no_unsupported_verbosity(self) -> Self:
        if self.verbosity != "medium":
            raise PydanticCustomError(
                "unsupported_parameter", "verbosity is not supported: say it in the instructions"
            )
        return self


class ThoughtOptions(StrictRequest):
    """Only `effort` changes anything: thoughts come whole, so there is no summary of them."""

    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: Literal["auto", "current_turn", "all_turns"] | None = None
    mode: Literal["standard"] | None = None
