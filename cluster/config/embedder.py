"""The entries of `embeddings:` in cluster.yaml: own models, and models behind a URL."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, Tag, model_validator

from cluster.config.base import StrictConfig
from cluster.config.expert import RemoteConfig, RemoteResourcesConfig
from cluster.config.model_source import AnyModelConfig, one_of
from cluster.config.replicated_model import ReplicatedConfig
from experts.engine.config import EmbeddingConfig


class EmbeddingEngineConfig(EmbeddingConfig, StrictConfig, title="engine (of an embedding model)"):
    """An encoder or decoder of transformers, in batches, on CPUs or one GPU."""


class EmbeddingModelConfig(ReplicatedConfig):
    """The keys of every kind of embedding model."""

    @model_validator(mode="after")
    def _sends_no_text(self) -> Self:
        if self.deadlines.gap_s is not None:
            raise ValueError("deadlines.gap_s has no effect on embeddings, which come at once; remove it")
        return self


class EmbedderConfig(EmbeddingModelConfig, title="embedding model"):
    """A model for `/v1/embeddings`. The meta never hands over to it."""

    streams_field = "engine.max_streams"
    model: AnyModelConfig = Field(description="Where the model comes from.")
    engine: EmbeddingEngineConfig = Field(
        default_factory=EmbeddingEngineConfig, description="How the model is run."
    )

    @property
    def max_streams(self) -> int:
        return self.engine.max_streams

    @property
    def window(self) -> int | None:
        return self.engine.max_model_len

    @model_validator(mode="after")
    def _takes_the_model_as_it_is(self) -> Self:
        if self.model.adapter is not None:
            raise ValueError("model.adapter: embedding models take no adapter; merge it and give that model")
        return self

    @model_validator(mode="after")
    def _fits_one_device(self) -> Self:
        for field in ("num_gpus", "tensor_parallel", "pipeline_parallel"):
            if (amount := getattr(self.resources, field)) > 1:
                raise ValueError(
                    f"resources.{field} {amount:g}: an embedding model runs on one device; use {field}: 1, "
                    "and more replicas"
                )
        return self


class RemoteEmbedderConfig(EmbeddingModelConfig, title="embedding model behind a URL"):
    """An embedding model that another server runs. Its replicas here only forward requests."""

    streams_field = "remote.max_streams"

    remote: RemoteConfig = Field(description="The server, and how to call it.")
    resources: RemoteResourcesConfig = Field(
        RemoteResourcesConfig(), description="What one forwarding replica reserves in Ray."
    )

    @property
    def max_streams(self) -> int:
        return self.remote.max_streams

    @model_validator(mode="after")
    def _settings_take_effect(self) -> Self:
        for field in ("continuation", "limit_field", "omit"):
            if field in self.remote.model_fields_set:
                raise ValueError(f"remote.{field} has no effect on embeddings; remove it")
        if self.autoscaling.target_tokens_in_flight is not None:
            raise ValueError(
                "autoscaling.target_tokens_in_flight has no effect on a model behind a URL, because only its "
                "server can count the tokens of an input; use target_ongoing_requests"
            )
        return self


AnyEmbedderConfig = Annotated[
    Annotated[EmbedderConfig, Tag("<model>")] | Annotated[RemoteEmbedderConfig, Tag("<remote>")],
    one_of("model", "remote"),
]
