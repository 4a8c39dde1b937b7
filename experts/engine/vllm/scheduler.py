"""vLLM's scheduler, with a prefix cache that an adapter shares with its base up to the adapter's start."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from experts.engine.vllm.adapter_rows import start_of


def make_scheduler(**options: Any) -> Scheduler:
    """In the place of vLLM's `scheduler_cls`, with the same arguments."""
    is_async = options["vllm_config"].scheduler_config.async_scheduling
    return _SharingAsyncScheduler(**options) if is_async else _SharingScheduler(**options)


class SharedBlocks:
    """Blocks that end before the adapter of their request begins have the hashes of the base's blocks, which
    they are. vLLM's own hashes hold the adapter's name in every block."""

    hash_block_size: int

    def add_request(self, request: Request) -> None:
        if request.lora_request is not None and request.block_hashes:
            _rehash(request, start_of(request.lora_request) // self.hash_block_size)
        super().add_request(request)  # type: ignore[misc]


class _SharingScheduler(SharedBlocks, Scheduler):  # type: ignore[misc]  # untyped if vLLM is not installed
    pass


class _SharingAsyncScheduler(SharedBlocks, AsyncScheduler):  # type: ignore[misc]
    pass


def _rehash(request: Request, num_plain: int) -> None:
    """Give the first `num_plain` blocks the hashes that they have without an adapter, and hash the others
    after them."""
    if not num_plain:
        return
    adapter, request.lora_request, request.block_hashes = request.lora_request, None, []
    request.update_block_hashes()
    del request.block_hashes[num_plain:]
    request.lora_request = adapter
    request.update_block_hashes()
