"""The model that is measured, and how: made on this machine, in the shape of a usual one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.models import save_random_model
from benchmarks.overhead.model import Model


@dataclass(frozen=True)
class Setting:
    """`shape`: a key of `SHAPES`. `num_prompt_chars`: each is one token. `num_tokens`: of an answer."""

    shape: str
    folder: str
    num_streams: tuple[int, ...]
    num_prompt_chars: int
    num_tokens: int
    num_rounds: int

    @property
    def model(self) -> Model:
        """With a KV cache that holds all streams at once, so that no request waits or is preempted."""
        on_gpu = torch.cuda.is_available()
        max_model_len = self.num_prompt_chars + self.num_tokens + 64  # the chat template adds some
        token_bytes = SHAPES[self.shape].num_cached_numbers * (2 if on_gpu else 4)
        return Model(
            Path(self.folder),
            max_streams=max(self.num_streams),
            max_model_len=max_model_len,
            cache_bytes=max(2**24, max(self.num_streams) * max_model_len * token_bytes * 11 // 10),
            dtype="bfloat16" if on_gpu else "float32",
            enforce_eager=not on_gpu,
            num_gpus=0.5 if on_gpu else 0.0,
        )


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama."""

    hidden_size: int
    num_layers: int
    intermediate_size: int
    vocab_size: int | None
    head_dim: int
    heads_per_key: int

    @property
    def num_cached_numbers(self) -> int:
        """The keys and values of one token."""
        return 2 * self.num_layers * self.hidden_size // self.heads_per_key

    def save(self, folder: Path, max_model_len: int) -> None:
        save_random_model(
            folder,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            max_model_len=max_model_len,
            head_dim=self.head_dim,
            heads_per_key=self.heads_per_key,
            intermediate_size=self.intermediate_size,
            vocab_size=self.vocab_size,
            dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        )


SHAPES = {
    # Llama 3 8B: 16 GB in bfloat16.
    "8b": Shape(4096, 32, 14336, 128256, head_dim=128, heads_per_key=4),
    # For a machine without a GPU: it shows that the script works, and nothing about speed.
    "tiny": Shape(64, 2, 128, None, head_dim=32, heads_per_key=1),
}
