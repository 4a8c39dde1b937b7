"""The models of a cluster.yaml as checkpoints for learning. Imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace

import torch
from transformers import PreTrainedModel

from cluster.config.cluster_config import ClusterConfig
from cluster.config.engine import TransformersEngineConfig, VllmEngineConfig
from cluster.config.loaded_model import LoadedModelConfig
from cluster.config.model_source import HubModelConfig, LocalModelConfig, UriModelConfig
from experts.checkpoint import Checkpoint
from experts.prompt import PromptRenderer
from router.table import META


@dataclass(frozen=True)
class KeptCheckpoint(Checkpoint):
    """Loads its model once, and keeps it for later calls as long as this object lives."""

    _loaded: dict[str, tuple[PreTrainedModel, PromptRenderer]] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> KeptCheckpoint:
        return cls(**{own.name: getattr(checkpoint, own.name) for own in fields(Checkpoint)})

    def load(self, attention: str = "sdpa") -> tuple[PreTrainedModel, PromptRenderer]:
        """See Checkpoint."""
        if attention not in self._loaded:
            self._loaded[attention] = super().load(attention)
        return self._loaded[attention]


def default_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def checkpoint_of(block: LoadedModelConfig) -> Checkpoint:
    """The block's model, in the dtype and with the template that serve it: others give other states."""
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
        template_kwargs=engine.chat_template_kwargs,
    )


def checkpoints(config: ClusterConfig) -> dict[str, Checkpoint]:
    """The checkpoint of the meta, as "meta", and of every expert that is served here, by name."""
    blocks: dict[str, LoadedModelConfig] = {META: config.meta, **config.local_experts}
    adapters = {
        name: replace(checkpoint_of(config.base_of(expert)), adapter=expert.adapter.source)
        for name, expert in config.adapter_experts.items()
    }
    return {**{name: checkpoint_of(block) for name, block in blocks.items()}, **adapters}


def _source(model: LocalModelConfig | HubModelConfig | UriModelConfig) -> str:
    if isinstance(model, LocalModelConfig):
        return str(model.path)
    return model.hub if isinstance(model, HubModelConfig) else model.uri
