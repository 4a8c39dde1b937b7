"""The `routing` block of cluster.yaml: the rules for every answer."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from cluster.config.base import StrictConfig
from router.table import Deadlines, RoutingRules


class DeadlinesConfig(Deadlines, StrictConfig, title="routing.deadlines"):
    """Deadlines of an answer, in seconds. Except for `wake_s`, none may be above `total_s`."""

    drain_s: float | None = Field(
        None,
        gt=0,
        description="Seconds that a stopping replica of a model has to finish its answers; then other "
        "replicas "
        "continue them. By default `total_s`.",
    )

    @property
    def longest_drain_s(self) -> float:
        return self.total_s if self.drain_s is None else self.drain_s

    @model_validator(mode="after")
    def _end_before_the_answer(self) -> Self:
        """Only for keys in the file, so that a short `total_s` does not conflict with a default."""
        for name in sorted(self.model_fields_set - {"total_s", "wake_s"}):
            value = getattr(self, name)
            if value is not None and value > self.total_s:
                raise ValueError(f"{name} {value:g} has no effect above total_s {self.total_s:g}; lower it")
        return self


class RoutingConfig(RoutingRules, StrictConfig, title="routing"):
    """When the meta hands over, and what happens when a model fails."""

    deadlines: DeadlinesConfig = Field(DeadlinesConfig(), description="Deadlines of an answer.")

    def rules(self) -> dict[str, Any]:
        """The fields of `RoutingRules`, for the route table."""
        return self.model_dump(mode="json", exclude={"deadlines": {"drain_s"}})
