"""Attention over a paged batch, where each sequence is computed by itself.

The library computes one product over all rows of a batch and masks everything outside each sequence's own
block. Nearly all of that is thrown away, and it grows with the square of the number of streams.
"""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
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

# Not names of our own: continuous batching accepts only these two and flash attention, for which it builds no
# masks.
NAME = "sdpa"
EAGER_NAME = "paged|eager"
MAX_PADDING = 2.0  # pad to at most this multiple of the keys; beyond, long sequences make short ones slow


def register() -> None:
    """Replace two functions of the library in this process. Of "sdpa", anything but a paged batch on a CPU is
    still computed by the library's own function."""
    AttentionInterface.register(NAME, attend)
    AttentionInterface.register(EAGER_NAME, attend_eagerly)


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
    """The library's interface for attention functions.

    Args:
        query: [1, H, Q, D], the rows of all sequences one after the other.
        key: [1, G, K, D], likewise; H is a multiple of G.
        value: as `key`.
        attention_mask: [1, 1, Q, all keys], or None.
        kwargs: `cu_seq_lens_q` int [B + 1] and, by layer type, `cu_seq_lens_k` int [B + 1] say where each
            sequence begins; `read_index` says where its keys are in the cache.

    Returns:
        [1, Q, H, D], and None for the attention weights.
    """
    if cache is not None and _has_several_sequences(query, kwargs):
        return _attend_batch(query, (key, value), attention_mask, scaling, cache, module, kwargs), None
    result: tuple[Tensor, None] = sdpa_attention_forward(
        module, query, key, value, attention_mask, scaling=scaling, cache=cache, **kwargs
    )
    return result


def attend_eagerly(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    *,
    cache: PagedAttentionCache,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """As `attend`, on any device, by the model's own function, which computes one sequence at a time.

    Some models cap their attention scores or add a sink to them, which the library's function for batches
    leaves out or "sdpa" cannot compute.
    """
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # the library's attention modules all have one
    bounds = _bounds(kwargs, cache.layer_to_allocator[layer].layer_type)
    key, value = cache.update(key, value, layer, kwargs)
    own_function = sys.modules[type(module).__module__].eager_attention_forward
    outputs = [
        own_function(
            module,
            query[:, :, rows],
            key[:, :, keys],
            value[:, :, keys],
            attention_mask[..., rows, keys],
            **kwargs,
        )[0]
        for rows, keys in bounds
    ]
    return torch.cat(outputs, dim=1), None


@dataclass(frozen=True)
class _Padded:
    """Cache positions of B sequences, padded to `width`, the length W of the longest.

    `index`: int [B · W]; `mask`: float [B, 1, 1, W], −inf for padding, or None if there is none.
    """

    index: Tensor
    mask: Tensor | None
    width: int


# The library makes one index per step and passes it to all layers of a type, so padding is computed once a
# step. An entry disappears with its index.
_PADDED_BY_INDEX: MutableMapping[Tensor, _Padded] = WeakTensorKeyDictionary()


def _has_several_sequences(query: Tensor, kwargs: dict[str, Any]) -> bool:
    """Whether this is a batch on a CPU for which the library would compute more than it needs."""
    is_batch = query.device.type == "cpu" and len(kwargs["cu_seq_lens_q"]) > 2
    return is_batch and kwargs.get("position_bias") is None


def _attend_batch(
    query: Tensor,
    new: tuple[Tensor, Tensor],
    mask: Tensor | None,
    scaling: float | None,
    cache: PagedAttentionCache,
    module: nn.Module,
    kwargs: dict[str, Any],
) -> Tensor:
    """`new`: key and value of the batch's own tokens, which are added to the cache."""
    layer = int(module.layer_idx)  # type: ignore[arg-type]  # the library's attention modules all have one
    allocator = cache.layer_to_allocator[layer]
    starts, index = kwargs["cu_seq_lens_k"][allocator.layer_type], kwargs["read_index"][allocator.index]
    longest = kwargs["max_length_k"][allocator.layer_type]
    is_even = (len(starts) - 1) * longest <= MAX_PADDING * len(index)
    if is_even and kwargs["max_length_q"] == 1 and getattr(module, "sliding_window", None) is None:
        # Decode: each sequence adds one token, so all of its keys are in the cache and visible.
        padded = _PADDED_BY_INDEX.get(index)
        if padded is None:
            padded = _PADDED_BY_INDEX[index] = _pad(index, starts, longest, query.dtype)
        key, value = cache.update(*new, layer, {**kwargs, "read_index": {allocator.index: padded.index}})
        return _attend_decode(query, key, value, padded, scaling)
    bounds = _bounds(kwargs, allocator.layer_type)
    key, value = cache.update(*new, layer, kwargs)
    sees_all = allocator.layer_type == FULL_ATTENTION  # no sliding window
    return _attend_each(query, key, value, mask, bounds, scaling, sees_all=sees_all)


def _bounds(kwargs: dict[str, Any], layer_type: str) -> list[tuple[slice, slice]]:
    """The rows and the keys of each sequence. To be called before the cache is updated, which changes
    `kwargs`."""
    ends = kwargs["cu_seq_lens_q"], kwargs["cu_seq_lens_k"][layer_type]
    rows, keys = ([slice(*pair) for pair in pairwise(each.tolist())] for each in ends)
    return list(zip(rows, keys, strict=True))


def _pad(index: Tensor, starts: Tensor, longest: int, dtype: torch.dtype) -> _Padded:
    """`index`: cache positions int [K], one sequence after the other; `starts`: int [B + 1]."""
    column, first = torch.arange(longest), starts[:-1, None]
    is_key = column < starts.diff()[:, None]
    padded = index[(first + column).where(is_key, first).flatten()]
    if bool(is_key.all()):
        return _Padded(padded, None, longest)
    mask = torch.zeros(is_key.shape, dtype=dtype).masked_fill_(~is_key, float("-inf"))
    return _Padded(padded, mask[:, None, None], longest)


def _attend_decode(
    query: Tensor, key: Tensor, value: Tensor, padded: _Padded, scaling: float | None
) -> Tensor:
    """[1, H, B, D] → [1, B, H, D]. Heads that share a key are treated as rows of one head, so no key has to
    be repeated."""
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


def _attend_each(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bounds: list[tuple[slice, slice]],
    scaling: float | None,
    *,
    sees_all: bool,
) -> Tensor:
    """One product per sequence; `bounds` are the rows and the keys of each."""
    num_heads_per_key = query.shape[1] // key.shape[1]

    def attend_one(rows: slice, keys: slice) -> Tensor:
        # A whole prompt needs no mask, and without a mask the hidden half is not computed.
        is_whole = sees_all and rows.stop - rows.start == keys.stop - keys.start
        return scaled_dot_product_attention(
            query[:, :, rows],
            repeat_kv(key[:, :, keys], num_heads_per_key),
            repeat_kv(value[:, :, keys], num_heads_per_key),
            attn_mask=None if is_whole or mask is None else mask[..., rows, keys],
            is_causal=is_whole,
            scale=scaling,
        )

    outputs = [attend_one(rows, keys) for rows, keys in bounds]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous()
