"""The `routing` extension of this API."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field, model_validator

from router.api.fields.strict import MAX_NAMES, Bias, Name, Names, StrictRequest
from router.decoding.policy import Routing
from router.errors import InvalidRequest


class RoutingOptions(StrictRequest):
    """The `routing` extension of this API. Unknown fields are errors here."""

    model_config = ConfigDict(extra="forbid")

    trace: bool = False
    experts: Names | None = None
    exclude: Names = Field(default_factory=list)
    force: Name | None = None
    bias: dict[Name, Bias] = Field(default_factory=dict, max_length=MAX_NAMES)
    call_bias: Bias = 0.0
    stay_bias: Bias | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_few_names(cls, value: Any) -> Any:
        # Before the validation of the names, which would report every invalid one in a body of 1 MB.
        parts = {"routing": value, "routing.bias": value.get("bias")} if isinstance(value, dict) else {}
        for name, part in parts.items():
            if isinstance(part, dict) and len(part) > MAX_NAMES:
                raise InvalidRequest(f"{name}: at most {MAX_NAMES} names are allowed", name)
        return value

    def to_routing(self) -> Routing:
        experts = None if self.experts is None else tuple(dict.fromkeys(self.experts))
        return Routing(experts, tuple(self.exclude), self.force, self.bias, self.call_bias, self.stay_bias)
