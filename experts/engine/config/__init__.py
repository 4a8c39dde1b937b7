"""How a model is loaded and run: the `engine`, `remote` and `model` blocks of cluster.yaml."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from experts.engine.config.embedding import EmbeddingConfig
from experts.engine.config.model_source import ModelSource
from experts.engine.config.openai import OpenAIConfig
from experts.engine.config.transformers import TransformersConfig
from experts.engine.config.vllm import VllmConfig

__all__ = [
    "EmbeddingConfig",
    "EngineConfig",
    "ModelSource",
    "OpenAIConfig",
    "TransformersConfig",
    "VllmConfig",
]

EngineConfig = Annotated[TransformersConfig | VllmConfig, Field(discriminator="kind")]
