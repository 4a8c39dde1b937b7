"""The keys of cluster.yaml for a model that writes in replicas of this cluster: where it is, what runs it."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from cluster.config.base import LoadContext
from cluster.config.engine import AnyEngineConfig, TransformersEngineConfig, VllmEngineConfig
from cluster.config.model_source import AnyModelConfig, LocalModelConfig
from cluster.config.replicated_model import AutoscalingConfig, ReplicatedConfig
from cluster.config.router import NeverZeroAutoscaling
from experts.checkpoint_files import prepares_media, reads_pictures
from experts.engine.config.base import LocalEngineConfig
from router.media_rules import Modality


class LoadedModelConfig(ReplicatedConfig):
    """A model that replicas of this cluster load."""

    streams_field = "engine.max_streams"
    model: AnyModelConfig = Field(description="Where the model comes from.")
    engine: AnyEngineConfig = Field(
        default_factory=TransformersEngineConfig, description="What runs the model, and how."
    )

    @property
    def reads(self) -> list[Modality]:
        """What the model reads."""
        return ["text"]

    @property
    def takes_adapters(self) -> bool:
        """Whether experts may be adapters on this model."""
        return False

    @property
    def max_streams(self) -> int:
        return self.engine.max_streams

    @property
    def window(self) -> int | None:
        return self.engine.max_model_len if isinstance(self.engine, LocalEngineConfig) else None

    @property
    def max_adapters(self) -> int:
        return self.engine.max_adapters if isinstance(self.engine, LocalEngineConfig) else 0

    @property
    def max_adapter_rank(self) -> int:
        return self.engine.adapter_rank if isinstance(self.engine, LocalEngineConfig) else 0

    @model_validator(mode="after")
    def _scales_before_it_is_full(self) -> Self:
        target, engine = self.autoscaling.target_tokens_in_flight, self.engine
        if target is None or not isinstance(engine, TransformersEngineConfig) or engine.max_model_len is None:
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
        if not self.takes_adapters and self.max_adapters:
            raise ValueError("engine.max_adapters has an effect only in pools and in the meta; remove it")
        return self

    @model_validator(mode="after")
    def _vllm_has_its_devices(self) -> Self:
        engine, resources = self.engine, self.resources
        if not isinstance(engine, VllmEngineConfig):
            return self
        if resources.num_gpus > 1 and resources.num_ranks == 1:
            raise ValueError(
                f"resources.num_gpus {resources.num_gpus:g}: engine vllm would use only one of them; use "
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
        if not isinstance(self.engine, TransformersEngineConfig):
            return self
        for field in ("num_gpus", "tensor_parallel", "pipeline_parallel"):
            if (amount := getattr(self.resources, field)) > 1:
                raise ValueError(
                    f"resources.{field} {amount:g}: engine transformers keeps model and KV cache on one "
                    f"device; use {field}: 1, and more replicas"
                )
        return self


class ReadingModelConfig(LoadedModelConfig):
    """A model that may read more than text."""

    modalities: list[Literal["text", "image"]] | None = Field(
        None,
        description="What the model reads: `[text]`, or `[text, image]` with `engine.kind: vllm`. By default "
        "what the checkpoint says, if it is a folder on this machine, and text otherwise.",
    )
    _sees: bool = PrivateAttr(False)

    @property
    def reads(self) -> list[Modality]:
        return ["text", "image"] if self._sees else ["text"]

    @field_validator("modalities")
    @classmethod
    def _has_text(cls, modalities: list[Modality] | None) -> list[Modality] | None:
        return None if modalities is None else with_text(modalities)

    @model_validator(mode="after")
    def _can_read_them(self, info: ValidationInfo) -> Self:
        said, is_able = self.modalities, isinstance(self.engine, VllmEngineConfig)
        folder = self.model.path if isinstance(self.model, LocalModelConfig) else None
        if folder is None or not LoadContext.of(info).models_required:
            self._sees = said is not None and "image" in said
        elif said is None:
            self._sees = is_able and reads_pictures(folder)
        else:
            self._sees = "image" in said
            if self._sees and not prepares_media(folder):
                raise ValueError(
                    f"modalities: '{folder}' has no processor_config.json or preprocessor_config.json, so "
                    "the model reads no pictures; add the file, or remove image"
                )
        if self._sees and not is_able:
            raise ValueError(
                "modalities: engine transformers reads text only; use engine: {kind: vllm}, or remove image"
            )
        return self


def with_text(modalities: list[Modality]) -> list[Modality]:
    if "text" not in modalities or len({*modalities}) < len(modalities):
        raise ValueError("must have text, and each entry once; correct it")
    return modalities


class MetaConfig(ReadingModelConfig, title="meta"):
    """The meta: the LLM that answers, and that decides when to hand over to an expert."""

    autoscaling: NeverZeroAutoscaling = Field(
        AutoscalingConfig(), description="How many replicas there are. `min_replicas` is at least 1."
    )

    @property
    def takes_adapters(self) -> bool:
        """They take over in place."""
        return True
