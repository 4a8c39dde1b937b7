"""The parts of a message's content: text, pictures, recordings and files."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.strict import Name, StrictRequest
from router.prompt import Media


class ImageUrl(StrictRequest):
    """`url` is a `data:` URI, or an address from which the operator of the cluster lets the router fetch.
    `detail` is passed on to models behind a URL; others look at every picture as closely as they can."""

    url: str = Field(min_length=1)
    detail: Literal["auto", "low", "high"] | None = None


class InputAudio(StrictRequest):
    """`data` is base64."""

    data: str = Field(min_length=1)
    format: Literal["wav", "mp3"]


class InputFile(StrictRequest):
    """`file_data` is a `data:` URI of a PDF."""

    file_data: str = Field(min_length=1)
    filename: Name | None = None

    @model_validator(mode="before")
    @classmethod
    def _refers_to_nothing(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("file_id") is not None:
            raise PydanticCustomError(
                "unsupported_parameter", "file_id: nothing is stored here; send file_data"
            )
        return value


class ContentPart(StrictRequest):
    """A part has the field that its type names. In the history, a part of type `refusal` is text."""

    type: Literal["text", "image_url", "input_audio", "file"]
    text: str = ""
    image_url: ImageUrl | None = None
    input_audio: InputAudio | None = None
    file: InputFile | None = None

    @model_validator(mode="before")
    @classmethod
    def _reads_a_refusal(cls, value: Any) -> Any:
        """In the history, the words of a refusal are what the assistant said."""
        is_refusal = isinstance(value, dict) and value.get("type") == "refusal"
        return {"type": "text", "text": value.get("refusal")} if is_refusal else value

    @model_validator(mode="after")
    def _has_what_it_names(self) -> Self:
        if self.type not in self.model_fields_set:
            raise PydanticCustomError(
                "missing", "a part of this type needs the field {name}", {"name": self.type}
            )
        return self

    def to_prompt(self) -> str | Media:
        if self.image_url is not None and self.type == "image_url":
            return Media("image", self.image_url.url, self.image_url.detail)
        if self.input_audio is not None and self.type == "input_audio":
            return Media("audio", f"data:{_AUDIO[self.input_audio.format]};base64,{self.input_audio.data}")
        if self.file is not None and self.type == "file":
            return Media("file", self.file.file_data, name=self.file.filename)
        return self.text


_AUDIO = {"wav": "audio/wav", "mp3": "audio/mpeg"}
