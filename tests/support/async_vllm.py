"""vLLM on a CPU with the asynchronous scheduling of GPUs: a step begins before the last one is read.

vLLM turns it off on CPUs. Its runner also copies tokens on a CUDA stream, which a CPU build does not have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from experts.engine.vllm.worker import ExpertWorker


class _Nothing:
    """Stands in for a CUDA stream or event: on a CPU each copy is complete when it returns."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def record(self) -> None: ...

    def synchronize(self) -> None: ...


@contextmanager
def _use_stream(stream: Any) -> Iterator[None]:
    yield


class AsyncCpuWorker(ExpertWorker):
    """The worker extension in a process whose CUDA streams do nothing."""

    def open_expert_head(self, folder: str, tokenizer: str, end_id: int, shown: Sequence[str]) -> None:
        torch.cuda.Event = torch.cuda.Stream = _Nothing  # type: ignore[misc,assignment]
        torch.cuda.current_stream = _Nothing  # type: ignore[assignment]
        torch.cuda.stream = _use_stream  # type: ignore[assignment]
        super().open_expert_head(folder, tokenizer, end_id, shown)


def force_async_scheduling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines that start from now on schedule asynchronously."""
    from vllm.platforms.cpu import CpuPlatform

    check_config = CpuPlatform.check_and_update_config

    def check_and_keep_async(vllm_config: Any) -> None:
        check_config(vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    monkeypatch.setattr(CpuPlatform, "check_and_update_config", staticmethod(check_and_keep_async))
    monkeypatch.setattr("experts.engine.vllm.launch.ExpertWorker", AsyncCpuWorker)
