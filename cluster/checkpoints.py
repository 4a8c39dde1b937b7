"""The models of a cluster.yaml as checkpoints to learn with. Imports torch."""

from __future__ import annotations

from dataclasses import replace

import torch

from cluster.blocks import ServedModel
from cluster.config import ClusterConfig
from cluster.engine_block import TransformersEngine, VllmEngine
from cluster.model_source import HubModel, LocalModel, UriModel
from experts.checkpoint import Checkpoint
from router.table import META


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_of(block: ServedModel) -> Checkpoint:
    """The block's model in the dtype that it is served in, for hidden states of another would differ."""
    model, engine = block.model, block.engine
    assert isinstance(
        engine, TransformersEngine | VllmEngine
    )  # the other kinds are refused when the file is read
    return Checkpoint(
        _source(model),
        model.revision if isinstance(model, HubModel) else None,
        dtype=engine.dtype,
        device=default_device(),
        trust_remote_code=model.trust_remote_code,
    )


def checkpoints(config: ClusterConfig) -> dict[str, Checkpoint]:
    """The meta's, under "meta", and every expert's that is loaded here."""
    blocks: dict[str, ServedModel] = {META: config.meta, **config.local_experts}
    adapters = {
        name: replace(checkpoint_of(config.pools[expert.adapter.pool]), adapter=expert.adapter.source)
        for name, expert in config.adapter_experts.items()
    }
    return {**{name: checkpoint_of(block) for name, block in blocks.items()}, **adapters}


def _source(model: LocalModel | HubModel | UriModel) -> str:
    if isinstance(model, LocalModel):
        return str(model.path)
    return model.hub if isinstance(model, HubModel) else model.uri
