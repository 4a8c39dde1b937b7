"""Sampling: temperature, min-p, top-k, top-p, and noise that depends only on the seed and the position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from experts.engine.request import EngineRequest
from experts.engine.sampling.routing import RequestState

MIN_TEMPERATURE = 1e-5  # below it logits / temperature overflows float32; such requests are greedy
_SMALLEST = 2.0**-24  # with it both logarithms are finite


def choose_tokens(
    logits: Tensor, states: Mapping[int, RequestState], generator: torch.Generator
) -> dict[int, int]:
    """Choose the tokens of some rows, as their requests ask, and record them in their states.

    Args:
        logits: as the model gives them, float [N, V]; they are not changed.
        states: the requests, by row.
        generator: on the device of `logits`; it is seeded again for each row.

    Returns:
        The token ids, by row.
    """
    if not states:
        return {}
    scores = torch.stack(
        [
            state.chooser.process(logits[i]) if state.chooser else logits[i].float()
            for i, state in states.items()
        ]
    )
    requests = list(states.values())
    sampled = [i for i, state in enumerate(requests) if state.request.temperature >= MIN_TEMPERATURE]
    if sampled:
        scores[sampled] = gumbel_sample(scores[sampled], [requests[i] for i in sampled], generator)
    chosen = dict(zip(states, scores.argmax(dim=-1).tolist(), strict=True))
    for i, state in states.items():
        if state.chooser:
            chosen[i] = state.chooser.add(chosen[i])
    return chosen


def gumbel_sample(scores: Tensor, states: Sequence[RequestState], generator: torch.Generator) -> Tensor:
    """Sample one token per row by the Gumbel-max trick.

    Args:
        scores: logits, float [B, V]; row i belongs to `states[i]`, whose temperature is not 0.
        generator: on the device of `scores`; it is seeded again for each row.

    Returns:
        float32 [B, V]; the argmax of a row is its sampled token. The noise of token number p depends only on
        (seed, p), so a resumed answer samples the tokens that it would have had.
    """
    warped = warp_logits(scores, [state.request for state in states])
    return torch.stack(
        [row + _noise(row, state, generator) for row, state in zip(warped, states, strict=True)]
    )


def warp_logits(scores: Tensor, requests: Sequence[EngineRequest]) -> Tensor:
    """Apply each request's temperature, min-p, top-k and top-p to its row, in this order.

    float [B, V] → float [B, V], with −inf for tokens that may not be sampled.
    """
    temperature = scores.new_tensor([request.temperature for request in requests]).unsqueeze(-1)
    scores = scores / temperature
    if any(request.sampling and request.sampling.min_p > 0 for request in requests):
        scores = _keep_min_p(
            scores, [request.sampling.min_p if request.sampling else 0 for request in requests]
        )
    if all(request.top_k <= 0 and request.top_p >= 1 for request in requests):
        return scores
    ordered, index = scores.sort(dim=-1, descending=True)
    width = scores.shape[-1]
    top_k = torch.tensor([request.top_k or width for request in requests], device=scores.device)
    top_p = scores.new_tensor([request.top_p for request in requests]).unsqueeze(-1)
    is_beyond_top_k = torch.arange(width, device=scores.device) >= top_k.unsqueeze(-1)
    ordered = ordered.masked_fill(is_beyond_top_k, float("-inf"))
    probs = ordered.softmax(dim=-1)
    is_beyond_top_p = probs.cumsum(dim=-1) - probs >= top_p
    is_beyond_top_p[..., 0] = False  # keep the most likely token, however small top_p is
    ordered = ordered.masked_fill(is_beyond_top_p, float("-inf"))
    return torch.empty_like(scores).scatter_(-1, index, ordered)


def _keep_min_p(scores: Tensor, min_p: Sequence[float]) -> Tensor:
    """p < min_p · p of the likeliest token, in logarithms."""
    limit = scores.amax(dim=-1, keepdim=True) + scores.new_tensor(min_p).log().unsqueeze(-1)
    return scores.masked_fill(scores < limit, float("-inf"))


def _noise(like: Tensor, state: RequestState, generator: torch.Generator) -> Tensor:
    """Gumbel noise [V], float32 and finite."""
    generator.manual_seed((state.seed * 1_000_003 + state.request.position + state.num_steps) % 2**63)
    # Not `exponential_`, which takes four times as long on a CPU: most of what sampling takes there.
    uniform = torch.empty_like(like, dtype=torch.float32).uniform_(generator=generator)
    return uniform.clamp_(_SMALLEST, 1 - _SMALLEST).log_().neg_().log_().neg_()
