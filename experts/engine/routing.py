"""Which rows of a batch hand over at this step: what an engine's loop and `experts.head` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from experts.engine.base import Call
from experts.head import ExpertTable, decide, distribution


@dataclass(frozen=True, slots=True)
class ExpertMasks:
    """What one request allows of one table: bool [E], and float [E] of its biases."""

    table: ExpertTable
    allowed: Tensor
    bias: Tensor


@dataclass(slots=True)
class Row:
    """One request as the generating loop sees it; that loop alone changes it while the request runs.

    `num_tokens`: of the prompt, and at most to be written. `partial`: the last tokens, where they are not a
    whole character yet.
    """

    call: Call
    seed: int
    num_tokens: int = 0
    forgotten: bool = False
    num_steps: int = 0
    partial: list[int] = field(default_factory=list)
    masks: ExpertMasks | None = None
    expert: str | None = None
    probability: float | None = None
    distribution: dict[str, float] | None = None

    @property
    def routes(self) -> bool:
        """Whether an expert may win the next token. Never inside a character: its bytes have one author."""
        return (
            bool(self.call.allowed) and not self.partial and not (self.num_steps and self.call.only_at_start)
        )


def route(scores: Tensor, num_words: int, table: ExpertTable, rows: Sequence[Row]) -> list[int]:
    """The indices of the rows that hand over; these have an `expert` and a `probability` from then on.

    `scores` are raw logits [B, V + E], one line for each of `rows`, all of which may route.
    """
    masks = [_masks(row, table, scores.device) for row in rows]
    allowed = torch.stack([mask.allowed for mask in masks])
    bias = torch.stack([mask.bias for mask in masks])
    if any(row.call.probe for row in rows):
        _probe(scores, num_words, table, rows, allowed, bias)
    decision = decide(scores, num_words, allowed, bias)
    winners = decision.expert.tolist()
    for row, winner, probability in zip(rows, winners, decision.probability.tolist(), strict=True):
        if winner >= 0:
            row.expert, row.probability = table.names[winner], probability
    return [i for i, winner in enumerate(winners) if winner >= 0]


def _masks(row: Row, table: ExpertTable, device: torch.device) -> ExpertMasks:
    """Made once per request and table: with a thousand experts, too much to make at every step."""
    if row.masks is None or row.masks.table is not table:
        allowed = set(row.call.allowed)
        bias = [row.call.bias.get(name, 0.0) for name in table.names]
        row.masks = ExpertMasks(
            table,
            torch.tensor([name in allowed for name in table.names], device=device),
            torch.tensor(bias, device=device),
        )
    return row.masks


def _probe(
    scores: Tensor, num_words: int, table: ExpertTable, rows: Sequence[Row], allowed: Tensor, bias: Tensor
) -> None:
    probabilities = distribution(scores, num_words, allowed, bias).tolist()
    for row, line in zip(rows, probabilities, strict=True):
        named = dict(zip(table.names, line, strict=True))
        row.distribution = {name: p for name, p in named.items() if name in row.call.allowed}
