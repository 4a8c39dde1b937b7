"""The base class of the models that coroutines and replicas share."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

Settings = TypeVar("Settings", bound=BaseModel)

logger = logging.getLogger(__name__)


class Frozen(BaseModel):
    """Immutable, since coroutines share it without copying. A misspelt key is an error."""

    # Serve logs validation errors; without their input, digests of API keys do not get into the logs.
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy without cached properties: pydantic would keep those that `update` makes wrong."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Nothing in it can change, so its parts are shared; cached properties may be impossible to copy."""
        return self.model_copy()


def read_settings(kind: type[Settings], values: Mapping[str, Any]) -> Settings:
    """Settings that `etr apply` of another release may have written. Those that this release does not know
    are logged and left out: during an upgrade, a replica that refused them would answer nothing.

    Raises pydantic's ValidationError if the others are not valid.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [each for each in error.errors(include_input=False) if each["type"] == "extra_forbidden"]
        if not found:
            raise
    settings = kind.model_validate(values, extra="ignore")
    names = ", ".join(sorted(".".join(map(str, each["loc"])) for each in found))
    logger.warning("another release wrote settings that this one works without: %s", names)
    return settings
