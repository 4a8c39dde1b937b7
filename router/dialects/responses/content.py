"""The content of items: text, in parts that say whose it is."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from router.api.fields.messages import MAX_PARTS
from router.api.fields.strict import StrictRequest
from router.dialects.responses.typed import parse_list, parse_typed


class ItemText(StrictRequest):
    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class ItemRefusal(StrictRequest):
    """What an assistant said, in the history."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        return self.refusal


Part = ItemText | ItemRefusal

_TEXT_ONLY = "models here read and write text only"
_KINDS: dict[str, type[Part]] = {
    "input_text": ItemText,
    "output_text": ItemText,
    "text": ItemText,
    "refusal": ItemRefusal,
    "summary_text": ItemText,
    "reasoning_text": ItemText,
}
_REMEDIES = dict.fromkeys(("input_image", "input_file", "input_audio", "computer_screenshot"), _TEXT_ONLY)


def parts(field: str) -> PlainValidator:
    """A field with text, or parts of text. Its value is the text of all parts, each on lines of its own."""
    listed = Annotated[list[Part], Field(max_length=MAX_PARTS)]
    return PlainValidator(partial(_parse_parts, field), json_schema_input_type=str | listed)


def _parse_parts(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(part.text for part in parse_list(field, value, MAX_PARTS, _parse_part))


def _parse_part(path: str, value: Any) -> Part:
    return parse_typed(path, value, _KINDS, _REMEDIES)
