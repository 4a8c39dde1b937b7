"""The blocks of cluster.yaml: what is served, on what, how many of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from cluster.engine_block import AnyEngine, TransformersEngine, VllmEngine
from cluster.model_source import ModelSource
from cluster.strict import Strict


class Autoscaling(Strict):
    """Serve's autoscaling knobs. Delays are shorter than Serve's: up because callers wait while a
    model loads, down because an idle one holds a GPU.

    `target_tokens_in_flight`, ours: prompt and still-to-write tokens per replica. The larger of what requests
    and what tokens ask for decides.
    """

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, gt=0)
    initial_replicas: int | None = Field(None, ge=0)
    target_ongoing_requests: float | None = Field(None, gt=0)  # None: half of what a replica can take
    target_tokens_in_flight: int | None = Field(None, gt=0)
    upscale_delay_s: float = Field(10.0, ge=0)
    downscale_delay_s: float = Field(300.0, ge=0)
    downscale_to_zero_delay_s: float | None = Field(None, ge=0)
    upscaling_factor: float | None = Field(None, gt=0)
    downscaling_factor: float | None = Field(None, gt=0)
    look_back_period_s: float = Field(20.0, gt=10)  # Serve's metrics arrive every 10 s
    aggregation_function: Literal["mean", "max", "min"] = "mean"

    @model_validator(mode="after")
    def _can_take_effect(self) -> Self:
        low, high = self.min_replicas, self.max_replicas
        if low > high:
            raise ValueError(f"min_replicas {low} is above max_replicas {high}; lower one or raise the other")
        if self.initial_replicas is not None and not low <= self.initial_replicas <= high:
            raise ValueError(
                f"initial_replicas {self.initial_replicas} is outside {low} to {high}; correct it"
            )
        if self.downscale_to_zero_delay_s is not None and low > 0:
            raise ValueError("downscale_to_zero_delay_s has no effect; set min_replicas: 0 or remove it")
        idle = sorted(self.model_fields_set - {"min_replicas", "max_replicas", "initial_replicas"})
        if low == high and idle:
            raise ValueError(
                f"{idle[0]} has no effect while min_replicas = max_replicas = {low}; raise max_replicas"
            )
        return self


class Resources(Strict):
    """What one replica reserves."""

    num_cpus: float = Field(1.0, ge=0)
    num_gpus: float = Field(0.0, ge=0)
    memory_bytes: int | None = Field(None, gt=0)
    accelerator_type: str | None = Field(None, min_length=1)
    custom: dict[str, Annotated[float, Field(gt=0)]] = {}
    labels: dict[str, str] = {}
    tensor_parallel: int = Field(1, gt=0)  # so many GPUs of one node

    @property
    def gpus_per_replica(self) -> float:
        return self.tensor_parallel if self.tensor_parallel > 1 else self.num_gpus

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
        """What reserves nothing fits everywhere: on the head, or all replicas on one node."""
        if not (self.num_cpus or self.gpus_per_replica or self.custom):
            raise ValueError("reserves nothing; give it num_cpus, num_gpus or custom resources")
        return self

    @model_validator(mode="after")
    def _parallel_gpus_are_whole(self) -> Self:
        size = self.tensor_parallel
        if size > 1 and "num_gpus" in self.model_fields_set and self.num_gpus != size:
            raise ValueError(
                f"num_gpus {self.num_gpus:g} contradicts tensor_parallel {size}, which takes that many whole "
                "GPUs; remove num_gpus"
            )
        return self


class ModelDeadlines(Strict):
    """The model's own, where it is slower or faster than the others; None: as in `routing.deadlines`."""

    first_token_s: float | None = Field(None, gt=0)
    gap_s: float | None = Field(None, gt=0)

    def own(self) -> dict[str, float]:
        """Those that are set."""
        return {name: value for name, value in self if value is not None}


class Health(Strict):
    """Serve asks each replica every `period_s`; no answer within `timeout_s` is a failure, and three of them
    in a row make Serve put another replica in its place."""

    period_s: float = Field(5.0, gt=0)
    timeout_s: float = Field(10.0, gt=0)


class Replicated(Strict, ABC):
    """What the meta and every expert with replicas of its own have in common.

    `rollout`, when replicas have to be replaced: `start_first` needs room for one more, and until there is
    some the old one serves on; `stop_first` needs none, and a single replica is away meanwhile.
    """

    streams_field: ClassVar[str]

    autoscaling: Autoscaling = Autoscaling()
    resources: Resources = Resources()
    deadlines: ModelDeadlines = ModelDeadlines()
    health: Health = Health()
    rollout: Literal["start_first", "stop_first"] = "start_first"

    @property
    @abstractmethod
    def max_streams(self) -> int:
        """How many calls one replica takes at once."""

    @property
    def target_ongoing_requests(self) -> float:
        return self.autoscaling.target_ongoing_requests or max(1.0, self.max_streams / 2)

    @model_validator(mode="after")
    def _scales_before_it_queues(self) -> Self:
        target, limit = self.target_ongoing_requests, self.max_streams
        if target > limit:
            raise ValueError(
                f"autoscaling.target_ongoing_requests {target:g} is above {self.streams_field} {limit}, "
                "so a full replica would not count as busy; lower it"
            )
        return self


class ServedModel(Replicated):
    """A model that replicas of this cluster load."""

    streams_field = "engine.max_streams"
    has_adapters: ClassVar[bool] = False

    model: ModelSource
    engine: AnyEngine = Field(default_factory=TransformersEngine)

    @property
    def max_streams(self) -> int:
        return self.engine.max_streams

    @model_validator(mode="after")
    def _scales_before_it_is_full(self) -> Self:
        target, engine = self.autoscaling.target_tokens_in_flight, self.engine
        if target is None or not isinstance(engine, TransformersEngine) or engine.max_model_len is None:
            return self
        limit = engine.max_streams * engine.max_model_len
        if target > limit:
            raise ValueError(
                f"autoscaling.target_tokens_in_flight {target} is above engine.max_streams × max_model_len = "
                f"{limit}, so a full replica would not count as busy; lower it"
            )
        return self

    @model_validator(mode="after")
    def _adapters_are_in_pools(self) -> Self:
        if not self.has_adapters and isinstance(self.engine, VllmEngine) and self.engine.max_adapters:
            raise ValueError("engine.max_adapters has no effect outside of pools; remove it")
        return self

    @model_validator(mode="after")
    def _vllm_has_its_devices(self) -> Self:
        engine, resources = self.engine, self.resources
        if not isinstance(engine, VllmEngine):
            return self
        if resources.num_gpus > 1 and resources.tensor_parallel == 1:
            raise ValueError(
                f"resources.num_gpus {resources.num_gpus:g}: engine vllm would use one of them; use "
                f"tensor_parallel: {resources.num_gpus:g}"
            )
        if 0 < resources.num_gpus < 1 and not (engine.cache_bytes or engine.gpu_memory_utilization):
            raise ValueError(
                f"resources.num_gpus {resources.num_gpus:g}: engine vllm would take nearly all memory of the "
                "GPU; set engine.gpu_memory_utilization or engine.cache_bytes"
            )
        return self

    @model_validator(mode="after")
    def _fits_one_device(self) -> Self:
        if not isinstance(self.engine, TransformersEngine):
            return self
        for field in ("num_gpus", "tensor_parallel"):
            if (amount := getattr(self.resources, field)) > 1:
                raise ValueError(
                    f"resources.{field} {amount:g}: engine transformers keeps model and KV cache on one "
                    f"device; use {field}: 1, and more replicas"
                )
        return self
