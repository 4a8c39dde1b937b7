"""The content of items: text in parts that say whose it is, pictures and files."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from router.api.fields.messages import MAX_PARTS
from router.api.fields.strict import Name, StrictRequest
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


class ItemImage(StrictRequest):
    """`image_url` is a `data:` URI, or an address from which the operator lets the router fetch."""

    type: Literal["input_image"]
    image_url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None

    def to_chat(self) -> dict[str, Any]:
        return {"type": "image_url", "image_url": {"url": self.image_url, "detail": self.detail}}


class ItemFile(StrictRequest):
    """`file_data` is a `data:` URI of a PDF."""

    type: Literal["input_file"]
    file_data: str = Field(min_length=1)
    filename: Name | None = None

    def to_chat(self) -> dict[str, Any]:
        return {"type": "file", "file": {"file_data": self.file_data, "filename": self.filename}}


Text = ItemText | ItemRefusal
Part = Text | ItemImage | ItemFile
# Of a chat request: its parts, or nothing but text.
ChatContent = str | list[dict[str, Any]]

_KINDS: dict[str, type[Text]] = {
    "input_text": ItemText,
    "output_text": ItemText,
    "text": ItemText,
    "refusal": ItemRefusal,
    "summary_text": ItemText,
    "reasoning_text": ItemText,
}
_ALL_KINDS: dict[str, type[Part]] = {**_KINDS, "input_image": ItemImage, "input_file": ItemFile}
_RESULT_KINDS: dict[str, type[Part]] = {**_KINDS, "input_image": ItemImage}
_OF_MESSAGES = "only the content of a message of the user has them, and the output of a function pictures"
_REMEDIES = {
    **dict.fromkeys(("input_image", "input_file"), _OF_MESSAGES),
    "input_audio": "send it to /v1/chat/completions",
    "computer_screenshot": "send it as input_image in a message of the user",
}


def parts(field: str) -> PlainValidator:
    """A field with text, or parts of text. Its value is the text of all parts, each on lines of its own."""
    listed = Annotated[list[Text], Field(max_length=MAX_PARTS)]
    return PlainValidator(partial(_parse_parts, field), json_schema_input_type=str | listed)


def _parse_parts(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(part.text for part in parse_list(field, value, MAX_PARTS, _parse_part))


def _parse_part(path: str, value: Any) -> Text:
    return parse_typed(path, value, _KINDS, _REMEDIES)


def any_parts(field: str) -> PlainValidator:
    """As `parts`, of the user. With a picture or a file, its value is the list of the parts for a chat."""
    listed = Annotated[list[Part], Field(max_length=MAX_PARTS)]
    parse = partial(_parse_any_parts, field, _ALL_KINDS)
    return PlainValidator(parse, json_schema_input_type=str | listed)


def result_parts(field: str) -> PlainValidator:
    """As `any_parts`, of the output of a function, which has no files."""
    listed = Annotated[list[Text | ItemImage], Field(max_length=MAX_PARTS)]
    parse = partial(_parse_any_parts, field, _RESULT_KINDS)
    return PlainValidator(parse, json_schema_input_type=str | listed)


def _parse_any_parts(field: str, kinds: Mapping[str, type[Part]], value: Any) -> ChatContent:
    if isinstance(value, str):
        return value
    found = parse_list(field, value, MAX_PARTS, partial(_parse_any_part, kinds))
    if not any(isinstance(part, ItemImage | ItemFile) for part in found):
        return _parse_parts(field, value)
    return [
        part.to_chat() if isinstance(part, ItemImage | ItemFile) else {"type": "text", "text": part.text}
        for part in found
    ]


def _parse_any_part(kinds: Mapping[str, type[Part]], path: str, value: Any) -> Part:
    return parse_typed(path, value, kinds, _REMEDIES)
