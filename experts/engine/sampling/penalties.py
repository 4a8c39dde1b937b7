"""Presence, frequency and repetition penalties of one request."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.engine.request import SamplingOptions


class Penalties:
    """Counts the tokens of an answer on the device of its logits, [V] of them."""

    def __init__(
        self, options: SamplingOptions, prompt: Sequence[int], own_ids: Sequence[int], like: Tensor
    ) -> None:
        """`prompt`: token ids; `own_ids`: the answer's tokens so far; `like`: logits float32 [V]."""
        self._options = options
        self._counts = torch.zeros_like(like)
        self._is_in_prompt = torch.zeros_like(like, dtype=torch.bool)
        self._is_in_prompt[_within(prompt, like)] = True
        own = _within(own_ids, like)
        self._counts.index_add_(0, own, torch.ones_like(own, dtype=like.dtype))

    def count(self, token_id: int, change: int = 1) -> None:
        """The answer has one token more, or with −1 one less."""
        self._counts[token_id] += change

    def apply(self, row: Tensor) -> Tensor:
        """Logits float32 [V] → the same, penalised."""
        options = self._options
        is_in_answer = self._counts > 0
        if options.repetition_penalty != 1:
            factor = options.repetition_penalty
            penalised = torch.where(row > 0, row / factor, row * factor)
            row = torch.where(is_in_answer | self._is_in_prompt, penalised, row)
        return row - options.frequency_penalty * self._counts - options.presence_penalty * is_in_answer


def _within(ids: Sequence[int], like: Tensor) -> Tensor:
    """int64 [N]; a head may have fewer rows than its tokenizer has ids."""
    return torch.tensor([i for i in ids if i < len(like)], dtype=torch.int64, device=like.device)
