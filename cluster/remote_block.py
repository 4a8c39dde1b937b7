"""An expert behind a URL: the `remote` block of cluster.yaml, and what its replicas may reserve."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from cluster.blocks import Resources
from cluster.strict import Strict
from experts.engine.config import OpenAIConfig


class RemoteSource(OpenAIConfig, Strict):
    """The engine's own settings, read as strictly as the rest of the file."""


class RemoteResources(Resources):
    """A replica waits for others nearly all of its time."""

    num_cpus: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _computes_nothing(self) -> Self:
        for name in ("num_gpus", "accelerator_type", "tensor_parallel"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} has no effect on a remote expert, which runs elsewhere; remove it")
        return self
