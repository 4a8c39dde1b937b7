"""The `routing` block of cluster.yaml: the rules for every answer."""

from __future__ import annotations

from typing import Any, Self

from pydantic import Field, model_validator

from cluster.config.base import StrictConfig
from cluster.config.expert import TokenFile
from router.chain_rules import ChainRules
from router.outlier_rules import OutlierRules
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


class ChainConfig(ChainRules, StrictConfig, title="routing.chain"):
    """When the meta has another expert write an answer anew. Only with `after_expert: chain`."""

    stop_token: TokenFile | None = Field(
        None,
        description="File or URI of the token that says that an answer is good enough; `etr learn-stop` "
        "writes it. By default a chain ends when no expert's token wins.",
    )


class OutlierConfig(OutlierRules, StrictConfig, title="routing.outliers"):
    """When a replica that answers with errors is set aside. Mistakes of clients are no errors."""


class RoutingConfig(RoutingRules, StrictConfig, title="routing"):
    """When the meta hands over, and what happens when a model fails."""

    chain: ChainConfig = Field(ChainConfig(), description="The rules of `after_expert: chain`.")
    deadlines: DeadlinesConfig = Field(DeadlinesConfig(), description="Deadlines of an answer.")
    outliers: OutlierConfig = Field(
        OutlierConfig(), description="When a replica that answers with errors is set aside."
    )

    @property
    def chains(self) -> bool:
        return self.after_expert == "chain"

    @model_validator(mode="after")
    def _retries_have_an_effect(self) -> Self:
        if "retries" in self.model_fields_set and self.retries > self.max_resumes:
            raise ValueError(
                f"retries {self.retries} has no effect above max_resumes {self.max_resumes}; lower it, or "
                "raise max_resumes"
            )
        return self

    @model_validator(mode="after")
    def _a_chain_can_have_two_experts(self) -> Self:
        if not self.chains and "chain" in self.model_fields_set:
            raise ValueError(f"chain has no effect with after_expert: {self.after_expert}; remove it")
        if self.chains and self.max_handoffs < 2:
            raise ValueError(
                f"after_expert: chain has no effect with max_handoffs {self.max_handoffs}; raise that"
            )
        if "max_hops" in self.chain.model_fields_set and self.chain.max_hops > self.max_handoffs:
            raise ValueError(
                f"chain.max_hops {self.chain.max_hops} has no effect above max_handoffs {self.max_handoffs}; "
                "lower it"
            )
        return self

    def rules(self) -> dict[str, Any]:
        """The fields of `RoutingRules`, for the route table."""
        rules = self.model_dump(mode="json", exclude={"deadlines": {"drain_s"}, "chain": {"stop_token"}})
        if not self.chains:
            del rules["chain"]
        return {**rules, "has_chain_stop": True} if self.chain.stop_token else rules
