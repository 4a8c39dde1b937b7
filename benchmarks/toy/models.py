"""The seven models: architecture, size, tokenizer, chat format and length of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from benchmarks.toy.tokenizer import (
    CHATML,
    INST,
    LETTERS,
    MARKDOWN,
    NUMBERS,
    WORDS,
    ChatFormat,
    train_tokenizer,
)

MAX_LENGTH = 512
META = "meta"


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    name: str
    architecture: Literal["llama", "qwen3"] = "llama"
    chat_format: ChatFormat = CHATML
    pattern: str = WORDS
    tokenizer_size: int = 400
    hidden_size: int = 96
    num_layers: int = 2
    batch_size: int = 16
    max_steps: int = 1400
    learning_rate: float = 4e-3
    # Training ends when this share of the validation answers is right in every token.
    target_accuracy: float = 1.0
    question_weight: float = 0.0

    def tokenizer(self, texts: Iterable[str]) -> PreTrainedTokenizerFast:
        return train_tokenizer(texts, self.chat_format, pattern=self.pattern, vocab_size=self.tokenizer_size)

    def model(self, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
        """An untrained model. Its head is padded to a multiple of 64 rows, as in large models."""
        kinds: dict[str, Callable[..., PretrainedConfig]] = {
            "llama": LlamaConfig,
            "qwen3": Qwen3Config,
        }
        config = kinds[self.architecture](
            vocab_size=-(-len(tokenizer) // 64) * 64,
            hidden_size=self.hidden_size,
            intermediate_size=self.hidden_size * 3,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.hidden_size // 32,
            num_key_value_heads=self.hidden_size // 32,
            head_dim=32,
            max_position_embeddings=MAX_LENGTH,
            tie_word_embeddings=False,
            # The default of 0.02 is for wide models. At this width, attention would stay uniform for long.
            initializer_range=0.08,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
        return model


# Models that train longest come first, so that the workers end at about the same time.
SPECS: tuple[ModelSpec, ...] = (
    ModelSpec(
        name=META,
        tokenizer_size=508,
        hidden_size=128,
        batch_size=24,
        max_steps=1200,
        learning_rate=3e-3,
        target_accuracy=0.98,
        question_weight=0.2,
    ),
    ModelSpec(name="roman", chat_format=INST, pattern=LETTERS, batch_size=24),
    ModelSpec(name="bases", chat_format=INST, pattern=NUMBERS),
    ModelSpec(name="calendar", architecture="qwen3", chat_format=MARKDOWN, pattern=LETTERS),
    ModelSpec(name="chemistry"),
    ModelSpec(name="capitals", architecture="qwen3"),
    ModelSpec(name="morse", chat_format=MARKDOWN, pattern=LETTERS, tokenizer_size=440),
)
