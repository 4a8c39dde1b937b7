"""The `engine` block of cluster.yaml: what runs a model, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from cluster.config.base import OWN_WORDS, StrictConfig
from experts.engine.config import TransformersConfig, VllmConfig


def _engine_kind(value: object) -> str | None:
    kind = value.get("kind", "transformers") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"<{kind}>" if kind in ("transformers", "vllm", "openai") else None


class TransformersEngineConfig(TransformersConfig, StrictConfig, title="engine: transformers"):
    """Hugging Face's continuous batching, on CPUs or one GPU. The default engine."""


class VllmEngineConfig(
    VllmConfig, StrictConfig, title="engine: vllm", json_schema_extra={"required": ["kind"]}
):
    """vLLM, in processes of its own. It needs the extra `vllm`."""

    # Not keys of the file, because the ones in `resources` reserve the devices too.
    tensor_parallel: SkipJsonSchema[int] = 1
    pipeline_parallel: SkipJsonSchema[int] = 1
    # Nor this one, which the model's `modalities` decide.
    images: SkipJsonSchema[bool] = False

    @model_validator(mode="after")
    def _devices_are_in_resources(self) -> Self:
        for field in ("tensor_parallel", "pipeline_parallel"):
            if field in self.model_fields_set:
                raise ValueError(f"{field} belongs to resources, which reserves the GPUs; move it there")
        if "images" in self.model_fields_set:
            raise ValueError("images is not set here; use the model's modalities: [text, image]")
        return self


class OpenAIEngineConfig(StrictConfig):
    """Refused with a hint to `remote`, which a user of an OpenAI server is looking for."""

    kind: Literal["openai"]
    url: str
    max_streams: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError(
            "engine kind openai loads no model; give an expert remote: {url: …, model: …} in place of model "
            "and engine, and the meta another kind"
        )


AnyEngineConfig = Annotated[
    Annotated[TransformersEngineConfig, Tag("<transformers>")]
    | Annotated[VllmEngineConfig, Tag("<vllm>")]
    | SkipJsonSchema[Annotated[OpenAIEngineConfig, Tag("<openai>")]],
    Discriminator(
        _engine_kind,
        OWN_WORDS,
        custom_error_message="unknown engine kind; use kind: transformers or kind: vllm",
    ),
]
