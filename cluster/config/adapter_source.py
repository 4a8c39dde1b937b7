"""The `adapter` block of an expert in cluster.yaml: a LoRA adapter, and the pool it belongs to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, Tag, ValidationInfo, field_validator

from cluster.config.base import StrictConfig
from cluster.config.model_source import UriConfig, adapter_path, one_of


class PooledAdapterConfig(StrictConfig):
    pool: str = Field(description="Name of the pool whose model the adapter is for.")


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
