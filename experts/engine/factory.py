"""From a configuration to the engine that it describes."""

from __future__ import annotations

from experts.engine.base import Engine
from experts.engine.config import EmbeddingConfig, EngineConfig, ModelSource, VllmConfig
from experts.engine.library_imports import library_imports
from experts.errors import ModelLoadError


def make_engine(model: ModelSource, config: EngineConfig) -> Engine:
    """Load `model` into the engine that `config` describes. Only that engine's libraries are imported.

    Raises:
        ModelLoadError: the model cannot be loaded, or the engine is not installed.
        TemplateError: the model's chat template cannot hold a conversation.
    """
    if isinstance(config, VllmConfig):
        return _make_vllm_engine(model, config)
    with library_imports():
        from experts.engine.hf.engine import TransformersEngine

    return TransformersEngine(
        model.source,
        config,
        model.revision,
        trust_remote_code=model.trust_remote_code,
        adapter=model.adapter,
    )


def make_embedding_engine(model: ModelSource, config: EmbeddingConfig) -> Engine:
    """The same for a model that only embeds. Raises ModelLoadError."""
    with library_imports():
        from experts.engine.embedding.engine import EmbeddingEngine

    return EmbeddingEngine(model, config)


def _make_vllm_engine(model: ModelSource, config: VllmConfig) -> Engine:
    try:
        import vllm  # noqa: F401
    except ImportError as error:
        raise ModelLoadError(
            f"{model.source}: engine kind vllm needs vLLM, which is not installed here; install "
            "expert-token-routing[vllm] or use kind: transformers"
        ) from error
    with library_imports():
        from experts.engine.vllm.engine import VllmEngine

    return VllmEngine(model, config)
