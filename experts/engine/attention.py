"""Attention over a paged batch on a CPU: every sequence by itself.

The library computes one product over all rows of a batch, with a mask that leaves every sequence its own
block: nearly all of that is thrown away, and it grows with the square of the number of streams.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.generation.continuous_batching import PagedAttentionCache
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

NAME = "sdpa"


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
    if cache is None or query.device.type != "cpu" or kwargs.get("position_bias") is not None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, cache=cache, **kwargs
        )
        return found
    key, value = cache.update(key, value, module.layer_idx, kwargs)
    num_groups = getattr(module, "num_key_value_groups", 1)
    rows, columns = (pairwise(kwargs[f"cu_seq_lens_{of}"].tolist()) for of in "qk")
    outputs = [
        scaled_dot_product_attention(
            query[:, :, first_row:end_row],
            repeat_kv(key[:, :, first:end], num_groups),
            repeat_kv(value[:, :, first:end], num_groups),
            attn_mask=_block(module, attention_mask, slice(first_row, end_row), slice(first, end)),
            scale=scaling,
        )
        for (first_row, end_row), (first, end) in zip(rows, columns, strict=True)
    ]
    return torch.cat(outputs, dim=2).transpose(1, 2).contiguous(), None


def _block(module: nn.Module, mask: Tensor | None, rows: slice, columns: slice) -> Tensor | None:
    """A single row sees all that its sequence has, unless a window slides over it."""
    is_single = rows.stop - rows.start == 1
    if mask is None or (is_single and getattr(module, "sliding_window", None) is None):
        return None
    return mask[..., rows, columns]
