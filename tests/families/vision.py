"""Configurations of models that take images too: the text model is a part of theirs."""

from __future__ import annotations

from typing import Any

from transformers import (
    Gemma3Config,
    Gemma3TextConfig,
    Mistral3Config,
    MistralConfig,
    PretrainedConfig,
)

EYE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def gemma3(**text: Any) -> PretrainedConfig:
    return Gemma3Config(
        text_config=Gemma3TextConfig(**text).to_dict(), vision_config=EYE, mm_tokens_per_image=4
    )


def mistral3(**text: Any) -> PretrainedConfig:
    eye = {**EYE, "model_type": "pixtral", "head_dim": 16}
    own = {**MistralConfig(**text).to_dict(), "model_type": "mistral"}
    return Mistral3Config(text_config=own, vision_config=eye, tie_word_embeddings=False)
