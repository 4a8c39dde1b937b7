"""The expert table as plain data, as vLLM passes it to its workers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.head import ExpertTable
from experts.shadow import ShadowTable

# Names; vectors, float32 [n, d] as bytes, row by row; biases.
PlainRows = tuple[Sequence[str], bytes, Sequence[float]]


def to_plain(table: ExpertTable) -> tuple[int, PlainRows, PlainRows, list[str | None]]:
    """The arguments of `ExpertWorker.install_experts` after the first."""
    shadows = table.shadows
    if shadows is None:
        return table.table_version, _plain_rows(table), ([], b"", []), []
    return table.table_version, _plain_rows(table), _plain_rows(shadows), list(shadows.replaces)


def _plain_rows(table: ExpertTable | ShadowTable) -> PlainRows:
    return list(table.names), table.weight.numpy().tobytes(), table.bias.tolist()


def from_plain(
    dim: int, table_version: int, experts: PlainRows, shadows: PlainRows, replaces: Sequence[str | None]
) -> ExpertTable:
    """The inverse of `to_plain`. `dim`: d; `replaces`: of each shadow."""
    shadow_table = ShadowTable(*_rows(shadows, dim), tuple(replaces)) if replaces else None
    return ExpertTable(table_version, *_rows(experts, dim), shadow_table)


def _rows(plain: PlainRows, dim: int) -> tuple[tuple[str, ...], Tensor, Tensor]:
    names, weight, bias = plain
    rows = torch.frombuffer(bytearray(weight), dtype=torch.float32) if names else torch.zeros(0)
    return tuple(names), rows.view(len(names), dim), torch.tensor(bias)
