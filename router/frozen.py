"""The base class of the models that coroutines and replicas share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict


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
