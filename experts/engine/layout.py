"""Where the numbers of a weight lie in memory, for products of a few rows on a CPU.

A step of many streams multiplies each weight with one row a stream. A float32 weight [out, in] that lies
column by column gives MKL less to rearrange: 8 to 64 rows take 1.2 times less with one thread, 16 to 48 up to
2.4 times less with two (`benchmarks/RESULTS.md`). For a prompt's many rows nothing changes, nor in bfloat16.
"""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def lay_by_columns(model: nn.Module) -> None:
    """Lay the weights of linear layers out anew, in place; their shapes and values stay.

    Not what an embedding shares, which reads rows, what is not on the CPU, or not float32.
    """
    embedded = {module.weight.data_ptr() for module in model.modules() if isinstance(module, nn.Embedding)}
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.data_ptr() not in embedded:
            weight = module.weight
            if weight.device.type == "cpu" and weight.dtype is torch.float32:
                weight.data = weight.data.t().contiguous().t()
