"""Helpers for routers that decide on the rows of states."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.learn.hidden_states import States
from experts.learn.routing_judge import Judgement
from experts.learn.targets import WORD


def experts_of(states: States) -> list[str | None]:
    """The expert that should take over each query; None is no expert."""
    sizes = torch.unique_consecutive(states.query, return_counts=True)[1].tolist()
    # All rows that are not words have the same expert.
    targets = [int(rows.max()) for rows in torch.split(states.expert, sizes)]
    return [None if target == WORD else states.expert_names[target] for target in targets]


def only_first_rows(states: States, labels: Tensor) -> Tensor:
    """`labels` of rows as a cluster applies them that hands over only at the start of an answer."""
    kept = torch.full_like(labels, WORD)
    rows = states.first_rows
    kept[rows] = labels[rows]
    return kept


def judge_queries(experts: Sequence[str | None], routed: Sequence[str | None]) -> list[Judgement]:
    """For routers that decide once, at the query, and so never too early."""
    return [Judgement(expert, to, early=False) for expert, to in zip(experts, routed, strict=True)]
