"""Counts how often an engine takes the KV cache from a running request, which is then computed again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch


@contextmanager
def count_preemptions(kind: str) -> Iterator[Callable[[], int]]:
    """Yields a function that returns the number, of the engines of this kind in this process."""
    counts: list[int] = []
    with _vllm(counts) if kind == "vllm" else _transformers(counts):
        yield lambda: sum(counts)


def _transformers(counts: list[int]) -> Any:
    from transformers.generation.continuous_batching.requests import RequestState

    restart = RequestState.create_equivalent_initial_request

    def counted(state: Any) -> Any:
        counts.append(1)
        return restart(state)

    return patch.object(RequestState, "create_equivalent_initial_request", counted)


def _vllm(counts: list[int]) -> Any:
    from experts.engine.vllm import stats

    record = stats._Logger.record

    def counted(logger: Any, scheduler_stats: Any, iteration_stats: Any, *args: Any, **options: Any) -> None:
        counts.append(iteration_stats.num_preempted_reqs if iteration_stats else 0)
        record(logger, scheduler_stats, iteration_stats, *args, **options)

    return patch.object(stats._Logger, "record", counted)
