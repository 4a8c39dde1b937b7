"""The blocks of cluster.yaml that every model with replicas of its own has: scaling, resources, health."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.config.base import StrictConfig


class AutoscalingConfig(StrictConfig, title="autoscaling"):
    """How many replicas there are. The names are those of Ray Serve's autoscaling, except
    `target_tokens_in_flight`. With targets for requests and for tokens, the one that asks for more replicas
    decides."""

    min_replicas: int = Field(
        1, ge=0, description="Minimum number of replicas. 0: the model is stopped while nothing calls it."
    )
    max_replicas: int = Field(1, gt=0, description="Maximum number of replicas.")
    initial_replicas: int | None = Field(
        None, ge=0, description="Replicas at the first deployment. By default `min_replicas`."
    )
    target_ongoing_requests: float | None = Field(
        None,
        gt=0,
        description="Requests open per replica that autoscaling aims at. By default half of what a replica "
        "takes.",
    )
    target_tokens_in_flight: int | None = Field(
        None,
        gt=0,
        description="Prompt tokens plus tokens still to be generated per replica that autoscaling aims at. "
        "By default only requests count.",
    )
    # Serve's default is 30 s; here, clients wait while a model loads.
    upscale_delay_s: float = Field(
        10.0, ge=0, description="Seconds that the load must be above the target before replicas are added."
    )
    # Serve's default is 600 s; here, an idle replica often holds a GPU.
    downscale_delay_s: float = Field(
        300.0, ge=0, description="Seconds that the load must be below the target before replicas are removed."
    )
    downscale_to_zero_delay_s: float | None = Field(
        None,
        ge=0,
        description="The same for the last replica. By default `downscale_delay_s`. Only with "
        "`min_replicas: 0`.",
    )
    upscaling_factor: float | None = Field(
        None,
        gt=0,
        description="Multiplies each step up; below 1, replicas are added more slowly. By default 1.",
    )
    downscaling_factor: float | None = Field(
        None,
        gt=0,
        description="Multiplies each step down; below 1, replicas are removed more slowly. By default 1.",
    )
    look_back_period_s: float = Field(
        20.0,
        gt=10,  # Serve's metrics arrive every 10 s
        description="Seconds of load that a decision looks back on.",
    )
    aggregation_function: Literal["mean", "max", "min"] = Field(
        "mean", description="How the load of that period becomes one number."
    )

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas {low} is above max_replicas {high}; lower one or raise the other")
        if self.initial_replicas is not None and not low <= self.initial_replicas <= high:
            raise ValueError(
                f"initial_replicas {self.initial_replicas} is not between {low} and {high}; correct it"
            )
        return self


class ResourcesConfig(StrictConfig, title="resources"):
    """What one replica reserves in Ray."""

    num_cpus: float = Field(
        1.0, ge=0, description="CPUs that one replica reserves. A fraction below 1, or whole."
    )
    num_gpus: float = Field(
        0.0,
        ge=0,
        description="GPUs that one replica reserves. A fraction below 1 shares a GPU; for several GPUs use "
        "`tensor_parallel`.",
    )
    memory_bytes: int | None = Field(
        None, gt=0, description="Bytes of main memory that one replica reserves. By default none."
    )
    accelerator_type: str | None = Field(
        None, min_length=1, description="Kind of GPU, as Ray names it: `H100`, `L4`, … By default any."
    )
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(
        {}, description="Amounts of custom Ray resources, by name."
    )
    labels: dict[str, str] = Field({}, description="Labels that a node must have, by name.")
    tensor_parallel: int = Field(
        1,
        gt=0,
        description="GPUs of one node over which one replica splits every layer of its model. Needs "
        "`engine.kind: vllm`.",
    )
    pipeline_parallel: int = Field(
        1,
        gt=0,
        description="Stages over which one replica distributes the layers of its model. Each has "
        "`tensor_parallel` GPUs, all on one node. Needs `engine.kind: vllm`.",
    )

    @property
    def num_ranks(self) -> int:
        """The processes of one replica that compute, each on a GPU of its own."""
        return self.tensor_parallel * self.pipeline_parallel

    @property
    def gpus_per_replica(self) -> float:
        return self.num_ranks if self.num_ranks > 1 else self.num_gpus

    @model_validator(mode="after")
    def _ray_can_reserve(self) -> Self:
        amounts = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **self.custom}
        for name, amount in amounts.items():
            if amount > 1 and amount % 1:
                raise ValueError(f"{name} {amount:g} is not whole; Ray takes fractions only below 1")
        reserved = sorted({"CPU", "GPU", "memory", "object_store_memory"} & set(self.custom))
        if reserved:
            raise ValueError(f"custom.{reserved[0]} is Ray's own; use num_cpus, num_gpus or memory_bytes")
        return self

    @model_validator(mode="after")
    def _reserves_something(self) -> Self:
        """A replica that reserves nothing fits anywhere: on the head, or all replicas on one node."""
        if not (self.num_cpus or self.gpus_per_replica or self.custom):
            raise ValueError("reserves nothing; set num_cpus, num_gpus or custom resources")
        return self

    @model_validator(mode="after")
    def _parallel_gpus_are_whole(self) -> Self:
        size = self.num_ranks
        if size > 1 and "num_gpus" in self.model_fields_set and self.num_gpus != size:
            raise ValueError(
                f"num_gpus {self.num_gpus:g} contradicts tensor_parallel {self.tensor_parallel} × "
                f"pipeline_parallel {self.pipeline_parallel}, which takes {size} whole GPUs; remove num_gpus"
            )
        return self


class ModelDeadlinesConfig(StrictConfig, title="deadlines (of one model)"):
    """Deadlines of this model, if it is slower or faster than the others."""

    first_token_s: float | None = Field(
        None,
        gt=0,
        description="Seconds until its first token. By default `routing.deadlines.first_token_s`.",
    )
    gap_s: float | None = Field(
        None, gt=0, description="Seconds between two of its tokens. By default `routing.deadlines.gap_s`."
    )

    def own(self) -> dict[str, float]:
        """The deadlines that are set."""
        return {name: value for name, value in self if value is not None}


class HealthConfig(StrictConfig, title="health"):
    """Ray Serve's health checks. After three failures in a row, Serve replaces the replica."""

    period_s: float = Field(5.0, gt=0, description="Seconds between two checks of a replica.")
    timeout_s: float = Field(
        10.0, gt=0, description="Seconds without an answer after which a check has failed."
    )


class ReplicatedConfig(StrictConfig, ABC):
    """The keys of the meta, of pools, and of experts with replicas of their own."""

    streams_field: ClassVar[str]

    autoscaling: AutoscalingConfig = Field(AutoscalingConfig(), description="How many replicas there are.")
    resources: ResourcesConfig = Field(ResourcesConfig(), description="What one replica reserves in Ray.")
    deadlines: ModelDeadlinesConfig = Field(
        ModelDeadlinesConfig(), description="Deadlines of this model, if they differ from the others'."
    )
    health: HealthConfig = Field(HealthConfig(), description="Health checks of its replicas.")
    rollout: Literal["start_first", "stop_first"] = Field(
        "start_first",
        description="How replicas are replaced. `start_first`: a new one starts before an old one stops, "
        "which needs room for one more. `stop_first`: an old one stops first; a single replica is missing "
        "meanwhile.",
    )

    @property
    @abstractmethod
    def max_streams(self) -> int:
        """How many requests one replica takes at once."""

    @property
    def window(self) -> int | None:
        """The context window in tokens; None if it is known only where the model is loaded."""
        return None

    @property
    def target_ongoing_requests(self) -> float:
        return self.autoscaling.target_ongoing_requests or max(1.0, self.max_streams / 2)

    @model_validator(mode="after")
    def _scales_before_requests_queue(self) -> Self:
        target, limit = self.target_ongoing_requests, self.max_streams
        if target > limit:
            raise ValueError(
                f"autoscaling.target_ongoing_requests {target:g} is above {self.streams_field} {limit}, "
                "so a full replica would not count as busy; lower it"
            )
        return self
