"""Which queries look alike to the meta."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from experts.learn.hidden_states import States
from experts.learn.queries import Query

_MAX_COSINES = 2**24  # at once: 64 MiB of float32


def near_experts(states: States, queries: Sequence[Query], num_neighbours: int = 1) -> list[bool]:
    """For each query, whether an expert should answer one of its nearest `num_neighbours` other queries.

    Nearest is the largest cosine of the hidden states at the end of the prompts, less their mean: the part
    that all states share would make everything alike.
    """
    of_expert = torch.tensor([query.expert is not None for query in queries])
    first = states.hidden[states.first_rows]
    directions = normalize(first - first.mean(dim=0), dim=-1)
    num_neighbours = min(num_neighbours, len(directions) - 1)
    chunk = max(1, _MAX_COSINES // len(directions))
    parts = torch.split(torch.arange(len(directions)), chunk)
    nearest = torch.cat([_nearest(directions, rows, num_neighbours) for rows in parts])
    found: list[bool] = of_expert[nearest].any(dim=-1).tolist()
    return found


def _nearest(directions: Tensor, rows: Tensor, num_neighbours: int) -> Tensor:
    """int64 [rows, num_neighbours]: the nearest other queries of some."""
    cosines = directions[rows] @ directions.T
    cosines[torch.arange(len(rows)), rows] = -torch.inf
    return cosines.topk(num_neighbours, dim=-1).indices
