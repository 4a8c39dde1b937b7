"""The models of a cluster.yaml as checkpoints for learning. Imports torch."""

from __future__ import annotations

from dataclasses import replace

import torch

from cluster.config.cluster_config import ClusterConfig
from cluster.config.engine import TransformersEngineConfig, VllmEngineConfig
from cluster.config.loaded_model import LoadedModelConfig
from cluster.config.model_source import HubModelConfig, LocalModelConfig, UriModelConfig
from experts.checkpoint import Checkpoint
from router.table import META


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_of(block: LoadedModelConfig) -> Checkpoint:
    """The block's model, in the dtype in which it is served: another dtype gives other hidden states."""
    model, engine = block.model, block.engine
    # Other kinds of engine are refused when the file is read.
    assert isinstance(engine, TransformersEngineConfig | VllmEngineConfig)
    return Checkpoint(
        _source(model),
        model.revision if isinstance(model, HubModelConfig) else None,
        dtype=engine.dtype,
        device=default_device(),
        trust_remote_code=model.trust_remote_code,
        adapter=model.adapter,
    )


def checkpoints(config: ClusterConfig) -> dict[str, Checkpoint]:
    """The checkpoint of the meta, as "meta", and of every expert that is served here, by name."""
    blocks: dict[str, LoadedModelConfig] = {META: config.meta, **config.local_experts}
    adapters = {
        name: replace(checkpoint_of(config.pools[expert.adapter.pool]), adapter=expert.adapter.source)
        for name, expert in config.adapter_experts.items()
    }
    return {**{name: checkpoint_of(block) for name, block in blocks.items()}, **adapters}


def _source(model: LocalModelConfig | HubModelConfig | UriModelConfig) -> str:
    if isinstance(model, LocalModelConfig):
        return str(model.path)
    return model.hub if isinstance(model, HubModelConfig) else model.uri
