"""The blocks of cluster.yaml: what is served, on what, how many of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from cluster.strict import OWN_WORDS, LoadContext, Strict
from experts.engine.config import TransformersConfig


class LocalModel(Strict):
    """A Hugging Face checkpoint in a folder; relative paths start at the folder of cluster.yaml."""

    path: Annotated[Path, Field(strict=False)]

    @field_validator("path")
    @classmethod
    def _is_checkpoint(cls, path: Path, info: ValidationInfo) -> Path:
        folder = (LoadContext.of(info).folder / path.expanduser()).resolve()
        if not folder.is_dir():
            raise ValueError(f"no such folder '{folder}'; put the model there or correct the path")
        if not (folder / "config.json").is_file():
            raise ValueError(f"'{folder}' has no config.json; name the folder of a Hugging Face checkpoint")
        return folder


class HubModel(Strict):
    """A model of the Hugging Face hub, taken from the local cache where it is there."""

    hub: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)?$")
    revision: str | None = None


def one_of(*keys: str) -> Discriminator:
    """A union told apart by which one of `keys` is there."""

    def tag(value: object) -> str | None:
        present = [key for key in keys if key in value] if isinstance(value, Mapping) else []
        present = present or [key for key in keys if hasattr(value, key)]
        return f"<{present[0]}>" if len(present) == 1 else None

    message = f"needs exactly one of {', '.join(keys)}; keep or add one of them"
    return Discriminator(tag, OWN_WORDS, custom_error_message=message)


def _engine_kind(value: object) -> str | None:
    kind = value.get("kind", "transformers") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"<{kind}>" if kind in ("transformers", "vllm", "openai") else None


ModelSource = Annotated[
    Annotated[LocalModel, Tag("<path>")] | Annotated[HubModel, Tag("<hub>")],
    one_of("path", "hub"),
]


class TransformersEngine(TransformersConfig, Strict):
    """The engine's own settings, read as strictly as the rest of the file."""


class VllmEngine(Strict):
    kind: Literal["vllm"]
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: int | None = Field(None, ge=16)
    max_streams: int = Field(256, gt=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError("engine kind vllm is not built yet; use kind: transformers")


class OpenAIEngine(Strict):
    kind: Literal["openai"]
    url: str
    max_streams: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError("engine kind openai is not built yet; use kind: transformers")


AnyEngine = Annotated[
    Annotated[TransformersEngine, Tag("<transformers>")]
    | Annotated[VllmEngine, Tag("<vllm>")]
    | Annotated[OpenAIEngine, Tag("<openai>")],
    Discriminator(
        _engine_kind, OWN_WORDS, custom_error_message="unknown engine kind; use kind: transformers"
    ),
]


class Autoscaling(Strict):
    """Serve's autoscaling knobs. Delays are shorter than Serve's going up and kinder going down, because a
    model takes long to load and an idle one is dear only when it holds a GPU."""

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, gt=0)
    initial_replicas: int | None = Field(None, ge=0)
    target_ongoing_requests: float | None = Field(None, gt=0)  # None: half of what a replica can take
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
    tensor_parallel: int = Field(1, gt=0)

    @model_validator(mode="after")
    def _ray_can_reserve(self) -> Self:
        amounts = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus, **self.custom}
        for name, amount in amounts.items():
            if amount > 1 and amount % 1:
                raise ValueError(f"{name} {amount:g} is not whole; Ray takes fractions only below 1")
        reserved = sorted({"CPU", "GPU", "memory", "object_store_memory"} & set(self.custom))
        if reserved:
            raise ValueError(f"custom.{reserved[0]} is Ray's own; use num_cpus, num_gpus or memory_bytes")
        if self.tensor_parallel > 1:
            raise ValueError("tensor_parallel above 1 is not built yet; use 1")
        return self


class ServedModel(Strict):
    """What the meta and an expert with its own model have in common."""

    model: ModelSource
    engine: AnyEngine = Field(default_factory=TransformersEngine)
    autoscaling: Autoscaling = Autoscaling()
    resources: Resources = Resources()

    @property
    def target_ongoing_requests(self) -> float:
        return self.autoscaling.target_ongoing_requests or max(1.0, self.engine.max_streams / 2)

    @model_validator(mode="after")
    def _scales_before_it_queues(self) -> Self:
        target, limit = self.target_ongoing_requests, self.engine.max_streams
        if target > limit:
            raise ValueError(
                f"autoscaling.target_ongoing_requests {target:g} is above engine.max_streams {limit}, "
                "so a full replica would not count as busy; lower it"
            )
        return self

    @model_validator(mode="after")
    def _fits_one_device(self) -> Self:
        num_gpus = self.resources.num_gpus
        if isinstance(self.engine, TransformersEngine) and num_gpus > 1:
            raise ValueError(
                f"resources.num_gpus {num_gpus:g}: engine transformers keeps model and KV cache on one "
                "device; use num_gpus: 1, and more replicas"
            )
        return self
