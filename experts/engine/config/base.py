"""What the settings of all engines share."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

DEFAULT_ADAPTER_RANK = 16  # vLLM's default


class FrozenConfig(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LocalEngineConfig(FrozenConfig):
    """The settings that have the same meaning for every engine that runs a model itself."""

    kind: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number format of the weights; `auto` is the checkpoint's own."
    )
    max_model_len: int | None = Field(
        None,
        ge=16,
        description="Context window in tokens, prompt and answer together. By default the model's own, or as "
        "many as the KV cache holds.",
    )
    max_adapters: int = Field(
        0, ge=0, description="Number of LoRA adapters that can be loaded at a time; 0 turns adapters off."
    )
    max_adapter_rank: Literal[1, 8, 16, 32, 64, 128, 256, 320, 512] | None = Field(
        None, description=f"Highest rank of these adapters. By default {DEFAULT_ADAPTER_RANK}."
    )
    tool_parser: str = Field(
        "auto",
        description="How tool calls are found in the model's output: a name as in vLLM, such as `hermes`. "
        "`auto` looks at the chat template; with `none`, calls stay text.",
    )
    reasoning_parser: str = Field(
        "auto",
        description="How the model's thoughts are told from its answer: a name as in vLLM, such as `qwen3`. "
        "`auto` looks at the chat template; with `none`, thoughts are part of the answer.",
    )
    chat_template_kwargs: dict[str, Any] = Field(
        {},
        description="Variables of the chat template, such as `enable_thinking: false`. A request may change "
        "them.",
    )
    prefix_caching: bool = Field(
        True,
        description="Keep the KV cache of past prompts and answers, for prompts that begin with the same "
        "tokens. It lies in parts of the KV cache that no running request needs.",
    )
    stall_s: float = Field(
        60.0,
        gt=0,
        description="Seconds without any token, while requests wait, after which the replica is unhealthy "
        "and replaced.",
    )

    @model_validator(mode="after")
    def _rank_needs_adapters(self) -> LocalEngineConfig:
        if self.max_adapter_rank and not self.max_adapters:
            raise ValueError("max_adapter_rank has no effect without max_adapters; set that too or remove it")
        return self

    @property
    def adapter_rank(self) -> int:
        """The highest rank of an adapter that can be loaded."""
        return self.max_adapter_rank or DEFAULT_ADAPTER_RANK
