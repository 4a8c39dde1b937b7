"""Settings of the engine that embeds."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import Field

from experts.engine.config.base import FrozenConfig


class Pooling(StrEnum):
    """How the vectors of an input's tokens become one."""

    MEAN = "mean"  # of all tokens
    CLS = "cls"  # that of the first token
    LAST = "last"  # that of the last token


class EmbeddingConfig(FrozenConfig):
    """An encoder or decoder of transformers, in batches, on CPUs or one GPU."""

    pooling: Literal["mean", "cls", "last"] | None = Field(
        None,
        description="How the vectors of an input's tokens become one. By default as the checkpoint says, in "
        "`1_Pooling/config.json`.",
    )
    normalize: bool | None = Field(
        None,
        description="Whether vectors get the length 1. By default as the checkpoint says in `modules.json`; "
        "without that file, they do.",
    )
    matryoshka: bool = Field(
        False,
        description="Whether the model was trained so that its vectors may be cut. Then requests may set "
        "`dimensions`.",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights; `auto` is the checkpoint's own."
    )
    device: str = Field(
        "auto",
        description="Where the weights go: `auto` (a GPU if the replica has one), or as torch names it.",
    )
    max_model_len: int | None = Field(
        None, ge=1, description="Tokens that an input may have. By default as many as the model takes."
    )
    max_batch_tokens: int = Field(
        8192,
        ge=16,
        description="Tokens that one step computes at most, padding included; a longer input has a step of "
        "its own.",
    )
    max_streams: int = Field(
        32, ge=1, le=1024, description="Requests that one replica takes at a time; others wait in the router."
    )
    num_threads: int | None = Field(
        None, ge=1, description="CPU threads that torch uses in one replica. By default torch decides."
    )
    stall_s: float = Field(
        60.0,
        gt=0,
        description="Seconds that one step may take before the replica is unhealthy and replaced.",
    )
