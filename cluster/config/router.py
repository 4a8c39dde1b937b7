"""The `router` and `tracing` blocks of cluster.yaml: the replicas that take requests, and their traces."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from cluster.config.base import StrictConfig
from cluster.config.replicated_model import AutoscalingConfig, ResourcesConfig
from router.decision_log_rules import DecisionLogRules
from router.table import Limits, Tracing

# Open requests per replica that autoscaling aims at, unless half of `limits.max_requests` is less.
TARGET_ONGOING_REQUESTS = 128.0


def _never_zero(autoscaling: AutoscalingConfig) -> AutoscalingConfig:
    if autoscaling.min_replicas == 0:
        raise ValueError("min_replicas 0 would leave no replica to answer requests; use 1 or more")
    if autoscaling.downscale_to_zero_delay_s is not None:
        raise ValueError(
            "downscale_to_zero_delay_s has no effect here, where min_replicas is never 0; remove it"
        )
    return autoscaling


NeverZeroAutoscaling = Annotated[AutoscalingConfig, AfterValidator(_never_zero)]


class LimitsConfig(Limits, StrictConfig, title="router.limits"):
    """Limits of one router replica. Above them, it refuses requests with status 429."""

    @model_validator(mode="after")
    def _can_be_reached(self) -> Self:
        if self.max_waiting > self.max_requests:
            raise ValueError(
                f"max_waiting {self.max_waiting} has no effect above max_requests {self.max_requests}, which "
                "counts waiting answers too; lower it"
            )
        return self


class DecisionLogConfig(DecisionLogRules, StrictConfig, title="router.decision_log"):
    """Where router replicas write their decisions: one JSON line each, without text unless `text` is set."""

    @field_validator("folder")
    @classmethod
    def _is_absolute(cls, folder: str) -> str:
        if not Path(folder).is_absolute():
            raise ValueError(f"'{folder}' is not absolute; give a folder on the nodes that run routers")
        return folder


class RouterConfig(StrictConfig, title="router"):
    """The replicas that take requests. Serve spreads them over the nodes."""

    autoscaling: NeverZeroAutoscaling = Field(
        AutoscalingConfig(), description="How many replicas there are. `min_replicas` is at least 1."
    )
    resources: ResourcesConfig = Field(ResourcesConfig(), description="What one replica reserves in Ray.")
    max_replicas_per_node: int | None = Field(
        None, ge=1, le=100, description="Maximum number of replicas on one node. By default no limit."
    )
    limits: LimitsConfig = Field(LimitsConfig(), description="How many requests one replica takes.")
    max_table_age_s: float | None = Field(
        600.0,
        ge=60.0,
        description="How long a replica takes requests without a sign of Serve's controller, from which it "
        "learns about removed experts and API keys. After that it answers 503. `null`: without limit.",
    )
    decision_log: DecisionLogConfig | None = Field(
        None, description="The decision log. By default decisions are counted, but not logged."
    )

    @property
    def target_ongoing_requests(self) -> float:
        usual = max(1.0, min(TARGET_ONGOING_REQUESTS, self.limits.max_requests / 2))
        return self.autoscaling.target_ongoing_requests or usual

    @model_validator(mode="after")
    def _settings_take_effect(self) -> Self:
        if self.autoscaling.target_tokens_in_flight is not None:
            raise ValueError("autoscaling.target_tokens_in_flight has no effect on a router; remove it")
        for field in ("tensor_parallel", "pipeline_parallel"):
            if getattr(self.resources, field) > 1:
                raise ValueError(f"resources.{field} has no effect on a router; remove it")
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


class TracingConfig(Tracing, StrictConfig, title="tracing"):
    """Traces of requests, for OpenTelemetry. Needs the extra `otel` on every node."""

    @field_validator("endpoint")
    @classmethod
    def _holds_no_credentials(cls, endpoint: str) -> str:
        if "@" in urlsplit(endpoint).netloc:  # the message must not show it
            raise ValueError("holds credentials; leave them out, and set headers_env")
        return endpoint
