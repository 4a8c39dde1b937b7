"""Where a LoRA adapter comes from, and which pool it belongs to: the `adapter` block of an expert."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, Tag, ValidationInfo, field_validator

from cluster.model_source import Uri, on_another_machine, one_of
from cluster.strict import LoadContext, Strict
from experts.adapter import read_adapter
from experts.errors import ModelLoadError


class PooledAdapter(Strict):
    pool: str


class LocalAdapter(PooledAdapter):
    """A folder as PEFT writes it; relative paths start at the folder of cluster.yaml."""

    path: Annotated[Path, Field(strict=False)]

    @property
    def source(self) -> str:
        return str(self.path)

    @field_validator("path")
    @classmethod
    def _is_adapter(cls, path: Path, info: ValidationInfo) -> Path:
        context = LoadContext.of(info)
        if not context.models_required:
            return on_another_machine(path)
        folder = (context.folder / path.expanduser()).resolve()
        try:
            read_adapter(folder)
        except ModelLoadError as error:
            raise ValueError(str(error)) from error
        return folder


class UriAdapter(Uri, PooledAdapter):
    """A folder of a remote file system, which every node that serves it fetches once."""

    @property
    def source(self) -> str:
        return self.uri


AnyAdapter = Annotated[
    Annotated[LocalAdapter, Tag("<path>")] | Annotated[UriAdapter, Tag("<uri>")], one_of("path", "uri")
]
