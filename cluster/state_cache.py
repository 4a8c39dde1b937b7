"""Where the meta's hidden states are kept between runs, and who computes them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cluster.checkpoints import checkpoint_of
from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from cluster.labels import in_data
from cluster.learn_options import LearnOptions
from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.learn.queries import Query, dataset_digest
from experts.learn.shards import Run, cache_states, run_here
from experts.learn.states import Progress, States

CACHE = ".etr"


def cached_states(
    config: ClusterConfig, queries: Sequence[Query], options: LearnOptions, progress: Progress
) -> tuple[States, Path]:
    """The states of `queries` under the cluster's meta, and the folder that keeps them.

    Raises:
        ConfigError: a query does not fit the meta, or the folder holds other states or cannot be written.
        ExpertsError: the meta cannot be loaded or used.
    """
    meta = checkpoint_of(config.meta)
    run: Run = run_here
    if options.ray_address is not None:
        meta, run = _on_ray(config, meta, options.ray_address)
    folder = options.states or meta_folder(config) / dataset_digest(queries)
    try:
        states = cache_states(
            meta, queries, folder, batch_size=options.batch_size, run=run, progress=progress
        )
    except DataError as error:
        # What is wrong with the folder is not the data's fault, and says its own name.
        if str(error).startswith(f"{folder}: "):
            raise ConfigError([str(error)]) from error
        raise in_data(options.data, error) from error
    except OSError as error:
        raise _unwritable(error) from error
    return states, folder


def meta_folder(config: ClusterConfig) -> Path:
    """Where the states of the cluster's meta are kept, a folder for each query set; another for another meta.

    Raises ConfigError, ModelLoadError.
    """
    cache = config.source.absolute().parent / CACHE
    meta = checkpoint_of(config.meta)
    try:
        cache.mkdir(exist_ok=True)
        # Gigabytes, and made anew at any time: nothing for a repository.
        (cache / ".gitignore").write_text("*\n", encoding="utf-8")
        identity = repr((meta.fingerprint(), meta.dtype, _files(meta)))
    except OSError as error:
        raise _unwritable(error) from error
    return cache / "states" / hashlib.sha256(identity.encode()).hexdigest()[:16]


def _files(meta: Checkpoint) -> list[tuple[str, int, int]]:
    """What the fingerprint of the head does not see: a body trained further, another chat template."""
    folder = Path(meta.source)
    if not folder.is_dir():
        return [(f"{meta.source}@{meta.revision}", 0, 0)]
    stats = [(path.name, path.stat()) for path in sorted(folder.iterdir()) if path.is_file()]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def _unwritable(error: OSError) -> ConfigError:
    return ConfigError(
        [f"{error.filename}: cannot be written: {error.strerror}; name another folder with --states"]
    )


def _on_ray(config: ClusterConfig, meta: Checkpoint, address: str) -> tuple[Checkpoint, Run]:
    """As many workers as the meta may have replicas, each with the GPUs that one reserves."""
    from cluster.ray_states import run_on_ray

    num_gpus = config.meta.resources.num_gpus
    run = run_on_ray(address, num_workers=config.meta.autoscaling.max_replicas, num_gpus=num_gpus)
    # The devices here say nothing about those there.
    return replace(meta, device="cuda" if num_gpus else "cpu"), run
