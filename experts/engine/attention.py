"""Attention over a paged batch on a CPU: every sequence sees itself alone.

The library computes one product over all rows of a batch, with a mask that leaves every sequence its own
block: nearly all of that is thrown away, and it grows with the square of the number of streams.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.generation.continuous_batching.cache_allocators import FULL_ATTENTION
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

NAME = "sdpa"
MAX_PADDING = 2.0  # so many times what is there; beyond, a long sequence among short ones is dear


def use() -> None:
    """From now on, in this process; what is no paged batch on a CPU is computed as ever."""
    AttentionInterface.register(NAME, attend)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cache: PagedAttentionCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The library's contract: [1, H, Q, D] and [1, G, K, D] → [1, Q, H, D]; the rows of all sequences stand
    one behind the other, and `cu_seq_lens_q` and `cu_seq_lens_k` say where each begins."""
    if cache is None or not _has_others(query, kwargs):
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, cache=cache, **kwargs
        )
        return found
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # every attention of the library's has one
    of_layer = cache.layer_to_allocator[layer]
    starts, index = kwargs["cu_seq_lens_k"][of_layer.layer_type], kwargs["read_index"][of_layer.index]
    longest = kwargs["max_length_k"][of_layer.layer_type]
    is_even = (len(starts) - 1) * longest <= MAX_PADDING * len(index)
    if is_even and kwargs["max_length_q"] == 1 and getattr(module, "sliding_window", None) is None:
        # Each goes on by one token, so all of its past is in the cache, and seen.
        padded = _PADDED.get(index)
        if padded is None:
            padded = _PADDED[index] = _padded(index, starts, longest, query.dtype)
        kwargs["read_index"] = {of_layer.index: padded.index}
        key, value = cache.update(key, value, layer, kwargs)
        return _decoded(query, key, value, padded, scaling), None
    key, value = cache.update(key, value, layer, kwargs)
    bounds = zip(*(pairwise(ends.tolist()) for ends in (kwargs["cu_seq_lens_q"], starts)), strict=True)
    sees_all = of_layer.layer_type == FULL_ATTENTION  # from its beginning
    return _one_by_one(query, key, value, attention_mask, bounds, scaling, sees_all=sees_all), None


@dataclass(frozen=True)
class _Padded:
    """Places in the cache [B · W], for each sequence as many as the longest has; `mask` [B, 1, 1, W] hides
    those that are not its own, if there are such, and `width` is W."""

    index: Tensor
    mask: Tensor | None
    width: int


# By the index that the library makes for each step and hands to all layers of a type; an entry goes with it.
_PADDED: MutableMapping[Tensor, _Padded] = WeakTensorKeyDictionary()


def _has_others(query: Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether the batch is one on a CPU of which most would be thrown away."""
    is_batch = query.device.type == "cpu" and len(kwargs["cu_seq_lens_q"]) > 2
    return is_batch and kwargs.get("position_bias") is None


def _padded(index: Tensor, starts: Tensor, longest: int, dtype: torch.dtype) -> _Padded:
    """From places in the cache [K], one sequence after the other."""
    column, first = torch.arange(longest), starts[:-1, None]
    is_there = column < starts.diff()[:, None]
    padded = index[(first + column).where(is_there, first).flatten()]
    if bool(is_there.all()):
        return _Padded(padded, None, longest)
    mask = torch.zeros(is_there.shape, dtype=dtype).masked_fill_(~is_there, float("-inf"))
    return _Padded(padded, mask[:, None, None], longest)


def _decoded(query: Tensor, key: Tensor, value: Tensor, padded: _Padded, scaling: float | None) -> Tensor:
    """Heads that share a key are like rows of one head that see the same: no key is repeated."""
    num_sequences, num_groups, dim = query.shape[2], key.shape[1], key.shape[3]
    shape = (num_sequences, padded.width, num_groups, dim)
    output = scaled_dot_product_attention(
        query[0].transpose(0, 1).reshape(num_sequences, num_groups, -1, dim),
        key[0].transpose(0, 1).view(shape).transpose(1, 2),
        value[0].transpose(0, 1).view(shape).transpose(1, 2),
        attn_mask=padded.mask,
        scale=scaling,
    )
    return output.reshape(1, num_sequences, -1, dim)


def _one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bounds: Iterable[tuple[tuple[int, int], tuple[int, int]]],
    scaling: float | None,
    *,
    sees_all: bool,
) -> Tensor:
    num_heads = query.shape[1] // key.shape[1]

    def one(rows: slice, keys: slice) -> Tensor:
        # A prompt in one piece needs no mask, and without one the half that it hides is not computed.
        is_whole = sees_all and rows.stop - rows.start == keys.stop - keys.start
        return scaled_dot_product_attention(
            query[:, :, rows],
            repeat_kv(key[:, :, keys], num_heads),
            repeat_kv(value[:, :, keys], num_heads),
            attn_mask=None if is_whole or mask is None else mask[..., rows, keys],
            is_causal=is_whole,
            scale=scaling,
        )

    outputs = [one(slice(*rows), slice(*keys)) for rows, keys in bounds]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
