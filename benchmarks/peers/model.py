"""What everybody serves, and with which settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAME = "model"
# One thread for each engine, wherever the kernel puts it: vLLM would bind all of them to the same core.
ENGINE_ENV = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


@dataclass(frozen=True)
class Model:
    """A checkpoint, and as much of it as one engine runs at a time."""

    folder: Path
    max_streams: int
    max_model_len: int = 512
    cache_bytes: int = 2**29

    @property
    def engine_args(self) -> dict[str, str | int | bool]:
        """In vLLM's words."""
        return {
            "dtype": "float32",
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_streams,
            "kv_cache_memory_bytes": self.cache_bytes,
            "enforce_eager": True,
            "generation_config": "vllm",
        }
