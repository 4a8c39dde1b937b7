"""Starts Hugging Face's continuous batching, and finds the longest request that its KV cache takes."""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from typing import Any

import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching import ContinuousBatchingManager
from transformers.generation.continuous_batching.cache import group_layers_by_attn_type
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessor,
    ContinuousBatchingLogitsProcessorList,
)
from transformers.generation.continuous_batching.requests import FutureRequestState, RequestState

from experts.engine.config.transformers import TransformersConfig
from experts.engine.hf import paged_attention, prefix_cache, weight_layout
from experts.engine.hf.adapters import BatchAdapters
from experts.engine.hf.prefix_cache import PrefixCache
from experts.errors import ModelLoadError

logger = logging.getLogger(__name__)

CPU_PAGE_TOKENS = 16  # each stream wastes half a page on average
GPU_PAGE_TOKENS = 256  # required by flash attention's paged kernels
MIN_CACHE_TOKENS = 512


def prepare(model: PreTrainedModel) -> None:
    """Make a loaded model ready for batches; `start` and `create_manager` need it."""
    paged_attention.register()
    prefix_cache.register()
    if is_on_cpu(model):
        weight_layout.to_column_major(model)


def start(
    name: str,
    model: PreTrainedModel,
    config: TransformersConfig,
    max_model_len: int,
    logits_processor: ContinuousBatchingLogitsProcessor,
    adapters: BatchAdapters | None,
) -> tuple[ContinuousBatchingManager, int]:
    """Start the generation loop. Returns it and the longest request it takes, in tokens: `max_model_len`, or
    as many as fit into the KV cache if the operator left both to the engine.

    Raises:
        ModelLoadError: the library cannot batch the model, or its KV cache does not hold `max_model_len`.
    """
    manager = _started(name, model, config, max_model_len, logits_processor, adapters)
    longest = _longest_request(manager, max_model_len)
    if config.max_model_len and longest < config.max_model_len:
        manager.stop(hard_stop=True)
        raise ModelLoadError(
            f"{name}: engine.max_model_len is {config.max_model_len}, but the memory holds a KV cache for "
            f"{longest} tokens; lower max_model_len or free memory"
        )
    if config.prefix_caching and not kv_cache(manager).use_prefix_sharing:
        logger.info("%s: keeps no prefixes: a sliding window loses the beginning of a text", name)
    if longest < max_model_len:
        logger.warning(
            "%s: the KV cache holds %d tokens, so its window is not %d; raise engine.cache_tokens",
            name,
            longest,
            max_model_len,
        )
    return manager, longest


def create_manager(
    name: str,
    model: PreTrainedModel,
    logits_processor: ContinuousBatchingLogitsProcessor,
    *,
    num_tokens: int | None,
    max_batch_tokens: int,
    max_streams: int,
    keeps_prefixes: bool = False,
    adapters: BatchAdapters | None = None,
) -> ContinuousBatchingManager:
    """`num_tokens`: size of the KV cache; None: what fits into the memory that is left.

    Raises ModelLoadError if the library cannot batch the model.
    """
    page_size = CPU_PAGE_TOKENS if is_on_cpu(model) else GPU_PAGE_TOKENS
    batched: Any = model  # the decorator of this method hides its type
    try:
        manager: ContinuousBatchingManager = batched.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=-1),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=page_size,
                num_blocks=num_tokens and _num_blocks(model, num_tokens, page_size),
                max_batch_tokens=max_batch_tokens,
                max_requests_per_batch=max_streams,
                allow_block_sharing=keeps_prefixes,
                # The logits processor runs Python at every step, which a replayed graph would skip.
                use_cuda_graph=False,
                use_async_batching=False,
            ),
        )
    except (ValueError, AttributeError) as error:  # layers of an unknown type, or a config without attention
        raise not_batched(name, error) from error
    manager.logit_processor = _StepProcessors(logits_processor, adapters)
    return manager


def kv_cache(manager: ContinuousBatchingManager) -> PrefixCache:
    """Of a loop that has started."""
    assert manager.batch_processor is not None
    cache = manager.batch_processor.cache
    assert isinstance(cache, PrefixCache), "`prepare` was called"
    return cache


def _started(
    name: str,
    model: PreTrainedModel,
    config: TransformersConfig,
    max_model_len: int,
    logits_processor: ContinuousBatchingLogitsProcessor,
    adapters: BatchAdapters | None,
) -> ContinuousBatchingManager:
    """With the KV cache that is configured; else on a CPU with one for all streams, or as many as fit."""
    num_tokens = config.cache_tokens
    if num_tokens is None and is_on_cpu(model):
        # On a CPU the library's default cache takes most of the memory, and every step pays for its size.
        num_tokens = config.max_streams * max_model_len
    while True:
        manager = create_manager(
            name,
            model,
            logits_processor,
            num_tokens=num_tokens,
            max_batch_tokens=config.max_batch_tokens,
            max_streams=config.max_streams,
            keeps_prefixes=config.prefix_caching,
            adapters=adapters,
        )
        manager.start()
        error = wait_until_started(manager)
        if error is None:
            return manager
        may_shrink = config.cache_tokens is None and isinstance(error, MemoryError)
        if num_tokens is None or num_tokens < MIN_CACHE_TOKENS or not may_shrink:
            raise not_batched(name, error) from error
        num_tokens //= 2


class _StepProcessors(ContinuousBatchingLogitsProcessorList):
    """The library's list of processors, which sees the requests of a step before it is computed."""

    def __init__(
        self, logits_processor: ContinuousBatchingLogitsProcessor, adapters: BatchAdapters | None
    ) -> None:
        super().__init__(LogitsProcessorList([logits_processor]))
        # The list counts only processors that it converted itself; with a count of 0 it would not call ours.
        self.tensors_required = 1
        self._adapters = adapters

    def prepare_tensor_args(self, requests_in_batch: list[FutureRequestState], arg_storage: Tensor) -> Tensor:
        if self._adapters is not None:
            self._adapters.begin_step(requests_in_batch)
        return super().prepare_tensor_args(requests_in_batch, arg_storage)


def wait_until_started(manager: ContinuousBatchingManager) -> Exception | None:
    """Wait until the loop has its KV cache. Returns what it died of instead, if it did."""
    try:
        with manager.pause():
            return None
    except RuntimeError as error:  # the loop has ended, or it never paused
        return manager.background_thread_status.fatal_error or error


def not_batched(name: str, error: BaseException) -> ModelLoadError:
    """The error for a model whose generation loop cannot be created, or died of `error`."""
    reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return ModelLoadError(
            f"{name}: no memory is left for its KV cache ({reason}); set engine.cache_tokens or free memory"
        )
    return ModelLoadError(
        f"{name}: Hugging Face's continuous batching cannot run this model ({reason}); use engine: "
        "{kind: vllm}, or another model"
    )


def is_on_cpu(model: PreTrainedModel) -> bool:
    return bool(model.device.type == "cpu")


def _num_blocks(model: PreTrainedModel, num_tokens: int, page_size: int) -> int:
    """The library divides memory into sectors, each for one group of layers: those with a sliding window, or
    those without. All groups but one get one more, because one request may leave part of it unused."""
    sizes = [len(layers) for layers in group_layers_by_attn_type(model.config.get_text_config()).values()]
    num_blocks_per_sector = math.lcm(*sizes) / sum(sizes)
    return math.ceil(num_tokens / page_size + (len(sizes) - 1) * num_blocks_per_sector)


def _longest_request(manager: ContinuousBatchingManager, limit: int) -> int:
    """How many tokens, at most `limit`, a request can have if it is alone. The library's own check is asked,
    because it rounds to pages and shares the memory among layers with and without a sliding window."""
    cache = kv_cache(manager)
    request = RequestState(request_id="", initial_tokens=[])

    def is_too_long(num_tokens: int) -> bool:
        return not cache.can_store_request_tokens(request, num_tokens, dry_run=True)

    return bisect_left(range(1, limit + 1), True, key=is_too_long)
