"""The `engine` block of cluster.yaml: what runs a model, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from cluster.strict import OWN_WORDS, Strict
from experts.engine.config import TransformersConfig, VllmConfig


def _engine_kind(value: object) -> str | None:
    kind = value.get("kind", "transformers") if isinstance(value, Mapping) else getattr(value, "kind", None)
    return f"<{kind}>" if kind in ("transformers", "vllm", "openai") else None


class TransformersEngine(TransformersConfig, Strict):
    """The engine's own settings, read as strictly as the rest of the file."""


class VllmEngine(VllmConfig, Strict):
    """Likewise. How many devices it is split over says `resources`, which reserves them."""

    @model_validator(mode="after")
    def _reserved_is_split(self) -> Self:
        if "tensor_parallel" in self.model_fields_set:
            raise ValueError(
                "tensor_parallel is reserved and set by resources.tensor_parallel; move it there"
            )
        return self


class OpenAIEngine(Strict):
    kind: Literal["openai"]
    url: str
    max_streams: int = Field(32, gt=0)

    @model_validator(mode="after")
    def _refuse(self) -> Self:
        raise ValueError(
            "engine kind openai loads no model; give an expert remote: {url: …, model: …} in place of model "
            "and engine, and the meta another kind"
        )


AnyEngine = Annotated[
    Annotated[TransformersEngine, Tag("<transformers>")]
    | Annotated[VllmEngine, Tag("<vllm>")]
    | Annotated[OpenAIEngine, Tag("<openai>")],
    Discriminator(
        _engine_kind,
        OWN_WORDS,
        custom_error_message="unknown engine kind; use kind: transformers or kind: vllm",
    ),
]
