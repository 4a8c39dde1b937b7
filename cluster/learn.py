"""Learn the token of every expert in a cluster.yaml and put it where the file says. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from cluster.blocks import LocalModel, TransformersEngine
from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from experts.errors import DataError
from experts.learn import learn_tokens, read_queries


def learn_all(
    config: ClusterConfig, data: Path, progress: Callable[[int, int, str], None]
) -> dict[str, Mapping[str, float]]:
    """Returns each expert's scores on the data it was learned from. Nothing is written unless all succeed.

    Raises:
        ConfigError: nothing to learn, the data is unusable, or a token is to be written to a URI.
        ExpertsError: the meta cannot be loaded or used.
    """
    _require_files(config)
    model, engine = config.meta.model, config.meta.engine
    assert isinstance(engine, TransformersEngine)  # the other kinds are refused when the file is read
    try:
        tokens = learn_tokens(
            str(model.path) if isinstance(model, LocalModel) else model.hub,
            read_queries(data),
            revision=None if isinstance(model, LocalModel) else model.revision,
            dtype=engine.dtype,
            device="cuda" if torch.cuda.is_available() else "cpu",
            expert_names=sorted(config.experts),
            progress=progress,
        )
    except DataError as error:
        raise ConfigError([f"{data}: {str(error).removeprefix(f'{data}: ')}"]) from error
    for token in tokens:
        token.save(config.experts[token.name].token)
    return {token.name: token.scores for token in tokens}


def _require_files(config: ClusterConfig) -> None:
    if not config.experts:
        raise ConfigError([f"{config.source}: experts: none to learn a token for; add one"])
    for name, expert in sorted(config.experts.items()):
        if "://" in expert.token:
            raise ConfigError(
                [f"{config.source}: experts.{name}.token: cannot be written to a URI; name a file here"]
            )
