"""Settings of the default engine."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from experts.engine.config.base import LocalEngineConfig


class TransformersConfig(LocalEngineConfig):
    """Hugging Face's continuous batching: the default engine, on CPUs and GPUs."""

    kind: Literal["transformers"] = Field(
        "transformers", description="The engine: Hugging Face's continuous batching."
    )
    max_streams: int = Field(
        32, ge=1, le=1024, description="Requests that one replica generates for at a time; others wait."
    )
    max_batch_tokens: int = Field(
        512,
        ge=16,
        description="Tokens that one step computes at most. Longer prompts are prefilled in several steps.",
    )
    cache_tokens: int | None = Field(
        None,
        ge=256,
        description="Size of the KV cache in tokens, for all requests together. By default "
        "`max_streams` × `max_model_len` on a CPU, and on a GPU what fits into the memory that is left.",
    )
    device_map: str = Field(
        "auto",
        description="Where the weights go, as in transformers: `auto`, `cpu`, `cuda:0`, … They may be "
        "offloaded, but not spread over several GPUs.",
    )
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3"] = Field(
        "sdpa",
        description="Attention implementation. On GPUs the flash implementations are much faster; they have "
        "to be installed.",
    )
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads that torch uses in one replica. By default torch decides."
    )

    @model_validator(mode="after")
    def _cache_holds_one_request(self) -> TransformersConfig:
        if self.cache_tokens and self.max_model_len and self.cache_tokens < self.max_model_len:
            raise ValueError("cache_tokens must be at least max_model_len, or a single request may not fit")
        return self
