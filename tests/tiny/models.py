"""Small real checkpoints with random weights."""

from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HIDDEN_SIZE = 32


def save_tiny_llama(
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int = 0,
    whole_characters: bool = True,
    head_dim: int = 8,
    max_model_len: int = 256,
) -> LlamaForCausalLM:
    """Save a two-layer Llama and its tokenizer; it gives a different answer to every prompt.

    With `whole_characters`, its greedy text never has part of a UTF-8 character. vLLM needs `head_dim` ≥ 32.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=max_model_len,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=0.4,  # large, so that the best two logits are never nearly equal
    )
    model = LlamaForCausalLM(config).eval()
    if whole_characters:
        partial = [i for i in range(len(tokenizer)) if "\ufffd" in str(tokenizer.decode([i]))]
        model.lm_head.weight.data[partial] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model
