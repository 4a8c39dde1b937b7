"""Where the meta's hidden states are kept between runs, and which process computes them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.errors import ConfigError
from cluster.hidden_folder import hidden_folder
from cluster.learning.checkpoints import checkpoint_of
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import in_data
from experts.adapter import adapter_folder
from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.learn.hidden_states import Progress, States
from experts.learn.queries import Query, dataset_digest
from experts.learn.shards import Run, cache_states
from experts.learn.states_folder import FORMAT_VERSION


def cached_states(
    config: ClusterConfig,
    meta: Checkpoint,
    queries: Sequence[Query],
    options: LearnOptions,
    progress: Progress,
) -> tuple[States, Path]:
    """The states of `queries` under `meta`, that of the cluster, and the folder that keeps them.

    Raises:
        ConfigError: a query does not fit the meta, or the folder holds other states or cannot be written.
        ExpertsError: the meta cannot be loaded or used.
    """
    run: Run | None = None
    if options.ray_address is not None:
        meta, run = _on_ray(config, meta, options.ray_address)
    folder = options.states or meta_folder(config) / dataset_digest(queries)
    try:
        states = cache_states(
            meta, queries, folder, batch_size=options.batch_size, run=run, progress=progress
        )
    except DataError as error:
        # An error about the folder is not about the data, and already names the folder.
        if str(error).startswith(f"{folder}: "):
            raise ConfigError([str(error)]) from error
        raise in_data(options.data, error) from error
    except OSError as error:
        raise unwritable(error) from error
    return states, folder


def meta_folder(config: ClusterConfig) -> Path:
    """The folder for states of the cluster's meta, with one subfolder per query set. Each meta has its own.

    Raises ConfigError, ModelLoadError.
    """
    try:
        return hidden_folder(config.source.absolute().parent) / "states" / meta_identity(config)
    except OSError as error:
        raise unwritable(error) from error


def meta_identity(config: ClusterConfig) -> str:
    """The identity of the cluster's meta. Raises ModelLoadError."""
    return checkpoint_identity(checkpoint_of(config.meta))


def checkpoint_identity(checkpoint: Checkpoint) -> str:
    """16 hex digits over all files of the model and of its adapter. Raises ModelLoadError."""
    identity: tuple[object, ...] = (
        *(FORMAT_VERSION, checkpoint.fingerprint(), checkpoint.dtype),
        _files(checkpoint.source, checkpoint.folder()),
    )
    if checkpoint.adapter is not None:
        identity = (*identity, _files(checkpoint.adapter, adapter_folder(checkpoint.adapter)))
    if checkpoint.template_kwargs:
        identity = (*identity, json.dumps(checkpoint.template_kwargs, sort_keys=True))
    return hashlib.sha256(repr(identity).encode()).hexdigest()[:16]


def unwritable(error: OSError) -> ConfigError:
    """For a file or folder of the cache that cannot be written."""
    return ConfigError(
        [f"{error.filename}: cannot be written: {error.strerror}; name another folder with --states"]
    )


def _files(source: str, folder: Path) -> list[tuple[str, int, int]]:
    """What the head's fingerprint does not cover: a body that was trained further, another chat template."""
    if not Path(source).is_dir():
        # A hub id's folder is named after its commit, and a URI's content does not change.
        return [(f"{source}@{folder.name}", 0, 0)]
    stats = [(path.name, path.stat()) for path in sorted(Path(source).iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _on_ray(config: ClusterConfig, meta: Checkpoint, address: str) -> tuple[Checkpoint, Run]:
    """As many workers as the meta may have replicas, each with the GPUs that one replica reserves."""
    from cluster.learning.ray_data_states import run_on_ray

    num_gpus = config.meta.resources.num_gpus
    run = run_on_ray(address, num_workers=config.meta.autoscaling.max_replicas, num_gpus=num_gpus)
    # The device is chosen for the nodes of that cluster, whatever this machine has.
    return replace(meta, device="cuda" if num_gpus else "cpu"), run
