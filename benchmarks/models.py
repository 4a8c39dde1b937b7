"""A model with random weights that never ends an answer, so every answer has the requested length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from experts.checkpoint import Checkpoint
from experts.learn import Query, compute_states, fit_tokens
from experts.token import ExpertToken

ALWAYS = 1e4  # a bias that beats every word

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def save_random_model(
    folder: Path,
    *,
    hidden_size: int,
    num_layers: int,
    max_model_len: int = 512,
    head_dim: int = 32,
    heads_per_key: int = 1,
    intermediate_size: int | None = None,
    vocab_size: int | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> None:
    """Write a Llama and its tokenizer of bytes. Ids above the tokenizer's never win."""
    tokenizer = _byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab_size or len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=intermediate_size or 2 * hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=hidden_size // head_dim,
        num_key_value_heads=hidden_size // head_dim // heads_per_key,
        max_position_embeddings=max_model_len,
        tie_word_embeddings=False,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    # Only printable ASCII can win, so each token is one character and no chunk waits for the rest of one.
    texts = {i: str(tokenizer.decode([i])) for i in range(len(tokenizer))}
    printable = {i for i, text in texts.items() if text.isascii() and text.isprintable()}
    special = set(tokenizer.added_tokens_decoder)
    silent = [i for i in range(config.vocab_size) if i not in printable or i in special]
    model.lm_head.weight.data[silent] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def learn_tokens(folder: Path, queries: Sequence[Query], tokens: Path) -> None:
    """Learn a token for every expert of the queries with the meta in `folder`, and save it in `tokens`."""
    model, renderer = Checkpoint(str(folder)).load()
    tokens.mkdir()
    for token in fit_tokens(compute_states(model, renderer, queries)).tokens:
        token.save(tokens / f"{token.name}.safetensors")


def _byte_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={char: i for i, char in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def save_winning_token(meta: Path, name: str, folder: Path) -> Path:
    """A token for the model in `meta` that always wins. Returns its file."""
    fingerprint, dim = Checkpoint(str(meta)).head()
    path = folder / f"{name}.safetensors"
    ExpertToken(name, torch.zeros(dim), ALWAYS, "meta", fingerprint).save(path)
    return path
