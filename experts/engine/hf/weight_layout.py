"""How weights are laid out in memory, for products with a few rows on a CPU.

A step of many streams multiplies each weight with one row per stream. A column-major float32 weight [out, in]
gives MKL less to rearrange: with 8 to 64 rows it is 1.2 times faster on one thread, and with 16 to 48 rows up
to 2.4 times faster on two (`benchmarks/RESULTS.md`). Prefills, which have many rows, and bfloat16 do not
gain.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def to_column_major(model: nn.Module) -> None:
    """Store the weights of linear layers column by column, in place; shapes and values stay.

    It skips weights that are not float32, not on the CPU, or shared with an embedding, which reads rows.
    """
    embedded = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.data_ptr() not in embedded:
            weight = module.weight
            if weight.device.type == "cpu" and weight.dtype is torch.float32:
                weight.data = weight.data.t().contiguous().t()
