"""Settings of the vLLM engine."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, WithJsonSchema, model_validator

from experts.engine.config.base import LocalEngineConfig
from experts.engine.config.vllm_arguments import require_settable

# Any keys and values: vLLM checks them.
VllmMapping = Annotated[dict[str, JsonValue], WithJsonSchema({"type": "object"})]


class VllmConfig(LocalEngineConfig):
    """vLLM, in processes of its own; needs the extra `vllm`."""

    kind: Literal["vllm"] = Field("vllm", description="The engine: vLLM.")
    max_streams: int = Field(
        256, ge=1, le=4096, description="Requests that one replica generates for at a time; others wait."
    )
    images: bool = Field(False, description="Whether messages may hold pictures.")
    max_batch_tokens: int | None = Field(
        None, ge=16, description="Tokens that one step computes at most. By default vLLM decides."
    )
    cache_bytes: int | None = Field(
        None,
        ge=2**20,
        description="Size of the KV cache in bytes, on each device. By default `gpu_memory_utilization` "
        "decides.",
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Fraction of each GPU's memory for weights and KV cache together; on a CPU, of the "
        "machine's memory. By default vLLM's own on GPUs, and 0.25 on a CPU.",
    )
    quantization: str | None = Field(
        None,
        min_length=1,
        description="Quantise the weights while they are loaded, by one of vLLM's names: `fp8_per_tensor`, "
        "`int8_per_channel_weight_only`, … By default what the checkpoint's own config says, which cannot be "
        "replaced by another kind.",
    )
    kv_cache_dtype: str = Field(
        "auto",
        min_length=1,
        description="Number format of the KV cache, by one of vLLM's names: `fp8`, `fp8_e5m2`, … By default "
        "that of the weights.",
    )
    enforce_eager: bool = Field(
        False, description="Do not compile the model or capture CUDA graphs: starts sooner, runs slower."
    )
    compilation: VllmMapping = Field(
        {},
        description="Keys of vLLM's `compilation_config`, such as `{cudagraph_mode: FULL}`. By default "
        "vLLM decides.",
    )
    tensor_parallel: int = Field(1, ge=1, description="Number of devices that each layer is split over.")
    pipeline_parallel: int = Field(
        1, ge=1, description="Number of groups of devices that the layers are distributed over."
    )
    extra: VllmMapping = Field(
        {},
        description="Other engine arguments of vLLM, by its names with underscores. Those with a setting of "
        "their own here, and those that would break routing, are refused.",
    )

    @property
    def num_devices(self) -> int:
        """How many devices one replica runs on."""
        return self.tensor_parallel * self.pipeline_parallel

    @model_validator(mode="after")
    def _extra_is_left_to_vllm(self) -> VllmConfig:
        require_settable(self.extra)
        return self

    @model_validator(mode="after")
    def _compiles_if_it_says_how(self) -> VllmConfig:
        if self.enforce_eager and self.compilation:
            raise ValueError("compilation has no effect together with enforce_eager; remove one")
        return self

    @model_validator(mode="after")
    def _one_cache_size(self) -> VllmConfig:
        if self.cache_bytes and self.gpu_memory_utilization:
            raise ValueError("gpu_memory_utilization has no effect together with cache_bytes; remove one")
        return self
