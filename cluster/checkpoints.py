"""The models of a cluster.yaml as checkpoints to learn with. Imports torch."""

from __future__ import annotations

import torch

from cluster.blocks import ServedModel, TransformersEngine
from cluster.config import ClusterConfig
from cluster.model_source import HubModel, LocalModel
from experts.checkpoint import Checkpoint
from router.table import META


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_of(block: ServedModel) -> Checkpoint:
    """The block's model in the dtype that it is served in, for hidden states of another would differ."""
    model, engine = block.model, block.engine
    assert isinstance(engine, TransformersEngine)  # the other kinds are refused when the file is read
    device = default_device()
    if isinstance(model, LocalModel):
        return Checkpoint(str(model.path), dtype=engine.dtype, device=device)
    if isinstance(model, HubModel):
        return Checkpoint(model.hub, model.revision, dtype=engine.dtype, device=device)
    return Checkpoint(model.uri, dtype=engine.dtype, device=device)


def checkpoints(config: ClusterConfig) -> dict[str, Checkpoint]:
    """The meta's, under "meta", and every expert's."""
    blocks: dict[str, ServedModel] = {META: config.meta, **config.local_experts}
    return {name: checkpoint_of(block) for name, block in blocks.items()}
