"""Trains several models at the same time, in processes with one thread each."""

from __future__ import annotations

import multiprocessing
import queue
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from pathlib import Path

from transformers.utils import logging

from benchmarks.toy.models import ModelSpec
from benchmarks.toy.progress import Progress
from benchmarks.toy.train import TrainReport, train

_POLL_S = 0.2

_Update = tuple[str, int, int, float]


class _Stopped(Exception):
    """Another model failed, so this training was stopped."""


def train_all(
    specs: Sequence[ModelSpec], folder: Path, *, progress: Progress, num_workers: int
) -> list[TrainReport]:
    """Train every model into `folder/<name>`, in this order. The failure of one stops all and is raised."""
    context = multiprocessing.get_context("spawn")
    updates: Queue[_Update] = context.Queue()
    stop = context.Event()
    with ProcessPoolExecutor(num_workers, context, _start, (updates, stop)) as pool:
        futures = [pool.submit(_train, spec, folder / spec.name) for spec in specs]
        try:
            _follow(futures, updates, progress)
            return [future.result() for future in futures]
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)


def _follow(futures: Sequence[Future[TrainReport]], updates: Queue[_Update], progress: Progress) -> None:
    while not all(future.done() for future in futures):
        for future in futures:
            if future.done():
                future.result()
        try:
            progress(*updates.get(timeout=_POLL_S))
        except queue.Empty:
            continue
    while not updates.empty():
        progress(*updates.get())


# Globals, because the initializer of a pool's worker can set nothing else.
_updates: Queue[_Update]
_stop: Event


def _start(updates: Queue[_Update], stop: Event) -> None:
    global _updates, _stop
    _updates, _stop = updates, stop
    logging.disable_progress_bar()


def _train(spec: ModelSpec, folder: Path) -> TrainReport:
    def report(step: int, max_steps: int, accuracy: float) -> None:
        _updates.put((spec.name, step, max_steps, accuracy))
        if _stop.is_set():
            raise _Stopped(spec.name)

    done = train(spec, folder, report)
    _updates.put((spec.name, done.num_steps, done.num_steps, done.accuracy))
    return done
