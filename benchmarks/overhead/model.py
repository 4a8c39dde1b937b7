"""The model that all servers serve, and its settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experts.engine.config import VllmConfig

NAME = "model"
# One thread for each engine, not bound to a core: vLLM would bind all of them to the same one.
ENGINE_ENV = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Model:
    """A checkpoint and the limits of an engine that runs it. By default for a CPU."""

    folder: Path
    max_streams: int
    max_model_len: int = 512
    cache_bytes: int = 2**29
    dtype: Literal["float32", "bfloat16"] = "float32"
    enforce_eager: bool = True
    num_gpus: float = 0.0

    @property
    def engine_args(self) -> dict[str, str | int | bool]:
        """The settings by vLLM's names."""
        return {
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_streams,
            "kv_cache_memory_bytes": self.cache_bytes,
            "enforce_eager": self.enforce_eager,
            "generation_config": "vllm",
        }

    @property
    def config(self) -> VllmConfig:
        """The same settings for our engine."""
        return VllmConfig(
            dtype=self.dtype,
            max_model_len=self.max_model_len,
            max_streams=self.max_streams,
            cache_bytes=self.cache_bytes,
            enforce_eager=self.enforce_eager,
        )
