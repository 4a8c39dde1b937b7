"""The `adapter` block of an expert in cluster.yaml: a LoRA adapter, and the pool it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, Tag, ValidationInfo, field_validator, model_validator

from cluster.config.base import StrictConfig
from cluster.config.model_source import UriConfig, adapter_path, one_of
from experts.adapter import Invocation
from router.table import META


class PooledAdapterConfig(StrictConfig):
    pool: str = Field(
        description="Name of the pool whose model the adapter is for. `meta`: it is for the meta's own "
        "model, and the expert takes over in place: within the meta's call, on what the meta has read."
    )
    invocation: Invocation = Field(
        "exact",
        description="How the adapter takes over in place. `exact`: it is an activated LoRA, trained with "
        "PEFT's `alora_invocation_tokens`. `approximate`: an ordinary LoRA, which was trained to read whole "
        "prompts, reads only the last token itself. Only with `pool: meta`.",
    )

    @model_validator(mode="after")
    def _takes_over_in_place(self) -> Self:
        if self.pool != META and "invocation" in self.model_fields_set:
            raise ValueError("invocation has an effect only with pool: meta; remove it")
        return self

    @property
    def invocation_in_place(self) -> Invocation | None:
        """None if the adapter is in a pool of its own."""
        return self.invocation if self.pool == META else None


class LocalAdapterConfig(PooledAdapterConfig, title="adapter: path"):
    """A LoRA adapter in a folder."""

    path: Annotated[Path, Field(strict=False)] = Field(
        description="Folder of the adapter as PEFT writes it. A relative path starts at the folder of "
        "cluster.yaml."
    )

    @property
    def source(self) -> str:
        return str(self.path)

    @field_validator("path")
    @classmethod
    def _is_adapter(cls, path: Path, info: ValidationInfo) -> Path:
        return adapter_path(path, info)


class UriAdapterConfig(UriConfig, PooledAdapterConfig, title="adapter: uri"):
    """A LoRA adapter in a remote file system. Each node that serves it fetches it once."""

    @property
    def source(self) -> str:
        return self.uri


AnyAdapterConfig = Annotated[
    Annotated[LocalAdapterConfig, Tag("<path>")] | Annotated[UriAdapterConfig, Tag("<uri>")],
    one_of("path", "uri"),
]
