"""Computes states on a Ray cluster: Ray Data feeds one worker per device, each with the meta loaded."""

from __future__ import annotations

import logging
import pickle
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from cluster.errors import RayFailed
from experts.checkpoint import Checkpoint
from experts.learn.shards import Run, ShardTask, ShardWorker

CONNECT_TIMEOUT_S = 5.0


def run_on_ray(address: str, *, num_workers: int = 1, num_gpus: float = 0.0) -> Run:
    """For `cache_states`: computes shards on the cluster at `address`, with `num_workers` actors that have
    `num_gpus` each.

    Tasks and shards travel through Ray, so the nodes need the meta's checkpoint but no shared folder.
    Running it raises RayFailed with the error that a worker raised.
    """

    def run(
        checkpoint: Checkpoint, batch_size: int, tasks: Sequence[ShardTask]
    ) -> Iterator[tuple[int, bytes]]:
        _connect(address)
        try:
            data = _dataset(checkpoint, batch_size, tasks, num_workers, num_gpus)
            for batch in data.iter_batches(batch_size=1, prefetch_batches=1):
                yield int(batch["number"][0]), bytes(batch["shard"][0])
        except RayError as error:
            # The last line is the worker's own error; the lines before it are Ray's traceback.
            reason = str(error).strip().splitlines()[-1]
            raise RayFailed(f"{address}: Ray could not compute the states: {reason}") from error
        finally:
            ray.shutdown()

    return run


class _Actor:
    """A ShardWorker for Ray Data: its tasks and shards are columns of bytes."""

    def __init__(self, checkpoint: Checkpoint, batch_size: int) -> None:
        self._worker = ShardWorker(checkpoint, batch_size)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        tasks = [pickle.loads(task) for task in batch["task"]]
        shards = [self._worker(task) for task in tasks]
        return {"number": np.array([task.number for task in tasks]), "shard": np.array(shards, dtype=object)}


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if port.isdigit() and "/" not in host:  # checked first, because Ray itself would retry for minutes
            socket.create_connection((host, int(port)), timeout=CONNECT_TIMEOUT_S).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RayError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise RayFailed(f"{address}: no Ray cluster answers there: {reason}; correct --ray") from error


def _dataset(
    checkpoint: Checkpoint, batch_size: int, tasks: Sequence[ShardTask], num_workers: int, num_gpus: float
) -> Dataset:
    context = DataContext.get_current()
    context.enable_progress_bars = False  # `progress` counts queries instead
    logging.getLogger("ray.data").setLevel(
        logging.CRITICAL
    )  # else it logs tracebacks beside our one-line error
    rows = [{"task": pickle.dumps(task)} for task in tasks]
    return ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        _Actor,
        batch_size=1,
        compute=ActorPoolStrategy(size=min(num_workers, len(rows))),
        fn_constructor_args=(checkpoint, batch_size),
        num_cpus=None if num_gpus else 1,
        num_gpus=num_gpus or None,
    )
