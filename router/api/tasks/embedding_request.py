"""The request for embeddings, as OpenAI has it."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag

from router.api.fields.strict import Count, Name, TokenIds, at_most
from router.api.fields.table import Endpoint, EndpointRequest, refused_by
from router.api.tasks.embedding_fields import REFUSED
from router.prompt import Prompt
from router.tasks import Embed

MAX_INPUTS = 2048

_Text = Annotated[str, Field(min_length=1)]
_Ids = Annotated[TokenIds, Field(min_length=1)]
_Many = Field(min_length=1, max_length=MAX_INPUTS, fail_fast=True)


def _form(value: object) -> str:
    """By the first item, so that an error is about one form of `input` and names the item."""
    if not isinstance(value, list):
        return "<text>"
    first = value[0] if value else ""
    if isinstance(first, list):
        return "<token lists>"
    return "<tokens>" if isinstance(first, int | float) else "<texts>"


Input = Annotated[
    Annotated[_Text, Tag("<text>")]
    | Annotated[list[_Text], _Many, at_most(MAX_INPUTS), Tag("<texts>")]
    | Annotated[_Ids, Tag("<tokens>")]
    | Annotated[list[_Ids], _Many, at_most(MAX_INPUTS), Tag("<token lists>")],
    Discriminator(_form),
]


class EmbeddingsRequest(EndpointRequest):
    """`input` is one text, a list of texts, the token ids of one text, or a list of such lists."""

    endpoint: ClassVar[Endpoint] = Endpoint.EMBEDDINGS
    refused = refused_by(endpoint, REFUSED)

    model: Name
    input: Input
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Count | None = None

    @property
    def prompt(self) -> Prompt:
        given: Any = self.input  # of a form that was checked
        items = [given] if _form(given) in ("<text>", "<tokens>") else given
        return Prompt(inputs=tuple(item if isinstance(item, str) else tuple(item) for item in items))

    @property
    def task(self) -> Embed:
        return Embed(self.dimensions)
