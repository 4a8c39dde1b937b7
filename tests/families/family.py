"""A model family: its real architecture with tiny random weights, a tokenizer of its kind, its template."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests.families.tokenizers import Save
from tests.tiny.templates import ChatFormat

MAX_LEN = 512
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,  # the smallest that vLLM runs on a CPU
    "max_position_embeddings": MAX_LEN,
    "initializer_range": 0.2,
}
END_SCALE = 1.5  # so that some greedy answers end by themselves
QUIET = 0.02  # so that no answer holds a control token, or a part of a character


@dataclass(frozen=True)
class Family:
    """One row of the table.

    `models`: the checkpoints that it stands for. `traits`: what it has that others lack. `end`: the tokens
    that end a turn, beside the tokenizer's eos. `padding`: rows of the head that no token has. `create`: the
    model of a configuration.
    """

    name: str
    models: str
    traits: str
    config: Callable[..., PretrainedConfig]
    tokenizer: Save
    chat_format: ChatFormat
    settings: dict[str, Any]
    end: Sequence[str] = ()
    padding: int = 0
    create: Callable[[Any], PreTrainedModel] = AutoModelForCausalLM.from_config
    seed: int = 0

    def save(self, folder: Path) -> None:
        """Write the checkpoint as its authors would, with its tokenizer and generation settings."""
        folder.mkdir(parents=True)
        self.tokenizer(folder, self.chat_format.template)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        torch.manual_seed(self.seed)
        end_ids = [tokenizer.eos_token_id, *tokenizer.convert_tokens_to_ids(list(self.end))]
        config = self._config(len(tokenizer) + self.padding, end_ids, tokenizer.bos_token_id)
        model = self.create(config).eval()
        _vary(model)
        _shape_head(model.get_output_embeddings(), tokenizer, end_ids)
        model.generation_config = GenerationConfig(
            eos_token_id=end_ids, bos_token_id=tokenizer.bos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        model.save_pretrained(folder)

    def _config(self, vocab_size: int, end_ids: Sequence[int], bos_id: int | None) -> PretrainedConfig:
        given = {**SIZES, **self.settings}
        ids = {"eos_token_id": list(end_ids), "bos_token_id": bos_id, "pad_token_id": None}
        own = {name: value for name, value in given.items() if value is not None}
        return self.config(vocab_size=vocab_size, **ids, **own)


@torch.no_grad()
def _vary(model: nn.Module) -> None:
    """Biases and norms are initialised to 0 and 1, with which a missing one would not be noticed."""
    for name, weight in model.named_parameters():
        if weight.ndim == 1 or "bias" in name:
            # With the norms of the residual as they are, a tied head repeats the last token again and again.
            spread = 0.1 if "layers" in name and "post_" not in name else 3.0
            weight.add_(spread * torch.randn_like(weight))


@torch.no_grad()
def _shape_head(head: nn.Module, tokenizer: Any, end_ids: Sequence[int]) -> None:
    weight = head.weight
    assert isinstance(weight, torch.Tensor)
    names = [str(tokenizer.decode([i])) for i in range(len(tokenizer))]
    added = set(tokenizer.added_tokens_decoder)
    quiet = [i for i, name in enumerate(names) if i in added or "\ufffd" in name]
    weight[[*quiet, *range(len(names), len(weight))]] *= QUIET
    weight[list(end_ids)] *= END_SCALE / QUIET
