"""The output head of a model inside vLLM: what goes into it, and how its scores become logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from experts.logit_transform import LogitTransform, fit, probe_scores


class ModelHead:
    """Computes a model's logits, and keeps `hidden`, the input of its head at the last call: [B, d].

    That is not always the argument of `compute_logits`: some models (MiMo, Step) normalise it first.
    """

    def __init__(self, model: Any) -> None:
        self._compute_logits: Callable[..., Tensor | None] = model.compute_logits
        # vLLM's `LogitsProcessor`, or its variant for adapters.
        self._processors = [module for module in model.modules() if hasattr(module, "_get_logits")]
        self.hidden = torch.zeros(0, 0)
        for processor in self._processors:
            processor.register_forward_pre_hook(self._keep_hidden, with_kwargs=True)

    def __call__(self, hidden: Tensor, *args: Any) -> Tensor | None:
        """Last hidden states [B, d] → logits [B, V]; None on a rank that does not get them."""
        return self._compute_logits(hidden, *args)

    @torch.inference_mode()
    def measure(self, hidden: Tensor) -> LogitTransform:
        """Run `compute_logits` on `hidden` [1, d], with scores of our choice in place of the head's.

        Raises:
            ValueError: the logits are not the head's scores, scaled or capped.
        """
        if not self._processors:  # a pipeline stage without a head
            return LogitTransform()
        with self._given_scores():
            logits = self._compute_logits(hidden)
        if logits is None:
            return LogitTransform()
        return fit(probe_scores(logits.shape[-1], logits.device), logits[0])

    @contextmanager
    def _given_scores(self) -> Iterator[None]:
        for processor in self._processors:
            processor._get_logits = partial(_scores, processor.org_vocab_size)
        try:
            yield
        finally:
            for processor in self._processors:
                del processor._get_logits

    def _keep_hidden(self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Tensor]) -> None:
        self.hidden = args[1] if len(args) > 1 else kwargs["hidden_states"]


def _scores(num_words: int, hidden: Tensor, *_args: Any, **_kwargs: Any) -> Tensor:
    return probe_scores(num_words, hidden.device).repeat(len(hidden), 1)
