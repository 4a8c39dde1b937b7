"""What a client says of a decision."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from router.api.fields.strict import Name


class FeedbackRequest(BaseModel):
    """The `id` of an answer, and the expert that should have answered; null: none, the meta was right.

    Unknown fields are errors here, and `right_expert` is never absent: a null says something.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    id: Name
    right_expert: Name | None
