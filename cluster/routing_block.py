"""The `routing` block of cluster.yaml: the rules that every answer keeps to."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from cluster.strict import Strict
from router.table import Deadlines, RoutingRules


class DeadlinesBlock(Deadlines, Strict):
    """The router's own settings, read as strictly as the rest of the file, and one for Serve.

    `drain_s`: how long a model's replica that is told to stop may go on with what it writes. Then it is
    ended, and the router has the rest written elsewhere. None: as long as an answer may take.
    """

    drain_s: float | None = Field(None, gt=0)

    @property
    def longest_drain_s(self) -> float:
        return self.total_s if self.drain_s is None else self.drain_s

    @model_validator(mode="after")
    def _end_before_the_answer(self) -> Self:
        """What the file says, that is: no default is in the way of a short `total_s`."""
        for name in sorted(self.model_fields_set - {"total_s", "wake_s"}):
            value = getattr(self, name)
            if value is not None and value > self.total_s:
                raise ValueError(f"{name} {value:g} has no effect above total_s {self.total_s:g}; lower it")
        return self


class RoutingBlock(RoutingRules, Strict):
    deadlines: DeadlinesBlock = DeadlinesBlock()

    def rules(self) -> dict[str, Any]:
        """As the route table has them."""
        return self.model_dump(mode="json", exclude={"deadlines": {"drain_s"}})
