"""What all parts of a request have in common: strict types, and limits on every size."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_INT32 = 2**31 - 1
MAX_NAME_LENGTH = 256
MAX_NAMES = 1024  # in one list of names, or of keys
MAX_TOKEN_IDS = 16_384


def at_most(num: int) -> BeforeValidator:
    """Refuses a longer list or object before its items are validated: an error for each of the 300,000 that
    fit into a body of 1 MB would block other requests."""

    def refuse_longer(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > num:
            raise PydanticCustomError("too_long", "must have at most {num} entries", {"num": num})
        return value

    return BeforeValidator(refuse_longer)


def as_integer(value: Any) -> Any:
    """6 for 6.0: JSON has only one type of number."""
    return int(value) if type(value) is float and value.is_integer() else value


Bias = Annotated[float, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=1, le=MAX_INT32)]
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME_LENGTH)]
Names = Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)]
TokenId = Annotated[int, Field(ge=0, le=MAX_INT32), BeforeValidator(as_integer)]
TokenIds = Annotated[list[TokenId], Field(max_length=MAX_TOKEN_IDS, fail_fast=True)]
# A JSON object with values of any kind, as templates and schemas have it.
JsonObject = Annotated[dict[str, Any], Field(max_length=MAX_NAMES), at_most(MAX_NAMES)]


class StrictRequest(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _normalized(cls, value: Any) -> Any:
        """Drops nulls, and turns 6.0 into 6."""
        if not isinstance(value, dict):
            return value
        return {k: as_integer(v) for k, v in value.items() if v is not None}
