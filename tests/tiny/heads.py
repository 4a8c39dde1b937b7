"""Small models whose heads scale or cap their logits, have a bias, share the embedding, or have more rows."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

HIDDEN_SIZE = 64
# Per kind: the architecture, and its settings beyond the common ones. Scores are up to about 8.
HEADS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("Llama", {"tie_word_embeddings": False}),
    "spare rows": ("Llama", {"tie_word_embeddings": False, "spare_rows": 44}),
    "bias": ("Phi", {"partial_rotary_factor": 0.5}),
    "caps": (
        "Gemma2",
        {
            "final_logit_softcapping": 5.0,
            "attn_logit_softcapping": None,
            "layer_types": ["full_attention"] * 2,
        },
    ),
    "divides": ("Granite", {"logits_scaling": 6.0}),
    "multiplies": ("Cohere", {"logit_scale": 0.0625}),
}
SCALED = ("caps", "divides", "multiplies")


def model_with_head(kind: str, vocab_size: int, **options: Any) -> PreTrainedModel:
    """Random weights, always the same. Heads are shared with the embedding where the architecture does so.

    `options`: more settings of its config.
    """
    architecture, own = HEADS[kind]
    settings = {
        "hidden_size": HIDDEN_SIZE,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 32,
        "max_position_embeddings": 256,
        "initializer_range": 0.15,
        "pad_token_id": None,
        **own,
        **options,
    }
    config_class = getattr(transformers, f"{architecture}Config")
    torch.manual_seed(0)
    config = config_class(vocab_size=vocab_size + settings.pop("spare_rows", 0), **settings)
    model: PreTrainedModel = getattr(transformers, f"{architecture}ForCausalLM")(config).eval()
    bias = model.get_output_embeddings().bias
    if bias is not None:
        bias.data.normal_()
    return model


def with_expert_rows(model: PreTrainedModel, rows: torch.Tensor, bias: torch.Tensor) -> PreTrainedModel:
    """Puts [W_V; W_E] into the model as its head: `rows` [E, d], `bias` [E], both with their gradients."""
    head: Any = model.get_output_embeddings()
    words = torch.zeros(head.out_features) if head.bias is None else head.bias.detach()
    weight, whole_bias = torch.cat([head.weight.detach(), rows]), torch.cat([words, bias])
    model.set_output_embeddings(_Linear(weight, whole_bias))
    return model


class _Linear(torch.nn.Module):
    def __init__(self, weight: torch.Tensor, bias: torch.Tensor) -> None:
        super().__init__()
        self._matrix = weight, bias

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden, *self._matrix)
