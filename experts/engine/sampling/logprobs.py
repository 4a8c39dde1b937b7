"""Log-probabilities of tokens: those of the model itself, before anything that a request asks of sampling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from experts.engine.chunk import Alternative, TokenLogprobs
from experts.text.decoder import TokenDecoder


@dataclass(frozen=True, slots=True)
class IdLogprobs:
    """One token, and the likeliest tokens at its place in descending order, each with its log-probability.

    `logprob` is None for the first token of a prompt.
    """

    token_id: int
    logprob: float | None
    top: tuple[tuple[int, float], ...] = ()

    def spelled(self, decoder: TokenDecoder) -> TokenLogprobs:
        top = (Alternative(*_spelling(i, decoder), logprob, i) for i, logprob in self.top)
        return TokenLogprobs(*_spelling(self.token_id, decoder), self.logprob, tuple(top), self.token_id)


def logprobs_of(logits: Tensor, token_ids: Sequence[int], nums: Sequence[int]) -> list[IdLogprobs]:
    """For each row.

    Args:
        logits: float [B, V], as the model gives them.
        token_ids: the token of each row.
        nums: how many of the likeliest tokens each row is to have.
    """
    logprobs = logits.float().log_softmax(dim=-1)
    own = logprobs.gather(-1, torch.tensor(token_ids, device=logits.device).unsqueeze(-1))[:, 0].tolist()
    values, ids = (each.tolist() for each in logprobs.topk(max(nums), dim=-1))
    return [
        IdLogprobs(token_id, own[i], tuple(zip(ids[i][:num], values[i][:num], strict=True)))
        for i, (token_id, num) in enumerate(zip(token_ids, nums, strict=True))
    ]


def _spelling(token_id: int, decoder: TokenDecoder) -> tuple[str, bytes]:
    """Text and bytes; a special token, which has no text, is called by its name."""
    data = decoder.inner_bytes(token_id) or decoder.name_of(token_id).encode()
    return data.decode(errors="replace"), data
