"""The `router` block of cluster.yaml: the replicas that take requests, and how many requests each takes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from cluster.blocks import Autoscaling, Resources
from cluster.strict import Strict
from router.table import Limits

# What a router replica has open before there is another one, unless its limit is too low for that.
TARGET_ONGOING_REQUESTS = 128.0


def _never_zero(autoscaling: Autoscaling) -> Autoscaling:
    if autoscaling.min_replicas == 0:
        raise ValueError("min_replicas 0 would leave nobody to answer; use 1 or more")
    return autoscaling


AlwaysThere = Annotated[Autoscaling, AfterValidator(_never_zero)]


class LimitsBlock(Limits, Strict):
    """The router's own settings, read as strictly as the rest of the file."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.max_waiting > self.max_requests:
            raise ValueError(
                f"max_waiting {self.max_waiting} has no effect above max_requests {self.max_requests}, which "
                "counts those that wait too; lower it"
            )
        return self


class RouterBlock(Strict):
    """The router's replicas. Serve spreads them over the nodes; `max_replicas_per_node` makes that a must."""

    autoscaling: AlwaysThere = Autoscaling()
    resources: Resources = Resources()
    max_replicas_per_node: int | None = Field(None, ge=1, le=100)
    limits: LimitsBlock = LimitsBlock()

    @property
    def target_ongoing_requests(self) -> float:
        usual = max(1.0, min(TARGET_ONGOING_REQUESTS, self.limits.max_requests / 2))
        return self.autoscaling.target_ongoing_requests or usual

    @model_validator(mode="after")
    def _settings_take_effect(self) -> Self:
        limit, high = self.max_replicas_per_node, self.autoscaling.max_replicas
        if limit is not None and limit >= high:
            raise ValueError(
                f"max_replicas_per_node {limit} has no effect with autoscaling.max_replicas {high}; remove it"
            )
        if self.autoscaling.target_tokens_in_flight is not None:
            raise ValueError("autoscaling.target_tokens_in_flight has no effect on a router; remove it")
        if self.resources.tensor_parallel > 1:
            raise ValueError("resources.tensor_parallel has no effect on a router; remove it")
        return self

    @model_validator(mode="after")
    def _scales_before_it_refuses(self) -> Self:
        target, limit = self.target_ongoing_requests, self.limits.max_requests
        if target > limit:
            raise ValueError(
                f"autoscaling.target_ongoing_requests {target:g} is above limits.max_requests {limit}, "
                "so a full router would not count as busy; lower it"
            )
        return self
