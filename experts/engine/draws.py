"""Drawing a token: temperature, top-k, top-p, and randomness that depends on the position alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.engine.base import Call
from experts.engine.routing import Row

MIN_TEMPERATURE = 1e-5  # below it the quotients leave float32, and the limit is greedy anyway


def draw(scores: Tensor, rows: Sequence[Row], generator: torch.Generator) -> Tensor:
    """[B, V] logits → [B, V] whose argmax is a draw of each row's next token.

    Log probabilities less the logarithm of exponential noise (the Gumbel-max trick). The noise of token
    number p depends on (seed, p) alone, so a resumed answer draws as it would have.
    """
    shaped = shape(scores, [row.call for row in rows])
    return torch.stack(
        [line - _noise(line, row, generator).log() for line, row in zip(shaped, rows, strict=True)]
    )


def shape(scores: Tensor, calls: Sequence[Call]) -> Tensor:
    """Temperature, top-k and top-p, each row its own: [B, V] → [B, V], −inf where nothing may be drawn."""
    temperature = scores.new_tensor([call.temperature for call in calls]).unsqueeze(-1)
    scores = scores / temperature
    if all(call.top_k <= 0 and call.top_p >= 1 for call in calls):
        return scores
    ordered, index = scores.sort(dim=-1, descending=True)
    width = scores.shape[-1]
    top_k = torch.tensor([call.top_k or width for call in calls], device=scores.device).unsqueeze(-1)
    top_p = scores.new_tensor([call.top_p for call in calls]).unsqueeze(-1)
    ordered = ordered.masked_fill(torch.arange(width, device=scores.device) >= top_k, float("-inf"))
    probs = ordered.softmax(dim=-1)
    beyond = probs.cumsum(dim=-1) - probs >= top_p
    beyond[..., 0] = False  # the likeliest stays, however small top_p is
    ordered = ordered.masked_fill(beyond, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, index, ordered)


def _noise(like: Tensor, row: Row, generator: torch.Generator) -> Tensor:
    generator.manual_seed((row.seed * 1_000_003 + row.call.position + row.num_steps) % 2**63)
    return torch.empty_like(like).exponential_(generator=generator)
