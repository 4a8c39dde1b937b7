"""How a model turns the scores of its output head into logits to sample from: it may scale and cap them.

Gemma 2 caps (`final_logit_softcapping`), Granite divides (`logits_scaling`), Command R and Falcon-H1 multiply
(`logit_scale`, `lm_head_multiplier`). Names and places differ, so the function is measured on the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.checkpoint import checkpoint_name
from experts.errors import ModelLoadError

_SMALL, _LARGE = 2.0**-20, 2.0**30  # where every cap is far away, and where every cap is reached
_POINTS = (_SMALL, _LARGE, *(sign * 2.0**power for power in range(-6, 12) for sign in (1, -1)))
_RTOL = 1e-4


@dataclass(frozen=True)
class LogitTransform:
    """logit = cap · tanh(scale · score / cap); without a cap, scale · score.

    It increases, so it changes no argmax, but it does change probabilities. `scale`: > 0, the slope at 0.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores of any shape and float type → logits of the same; the same tensor if nothing is changed."""
        if self.cap is not None:
            return torch.tanh(scores / (self.cap / self.scale)) * self.cap
        return scores if self.scale == 1 else scores * self.scale

    def slope(self, logits: Tensor) -> Tensor | float:
        """The derivative of the logits by their scores, where the result is `logits`."""
        if self.cap is None:
            return self.scale
        return (1 - (logits / self.cap).square()) * self.scale


@torch.inference_mode()
def measure(model: PreTrainedModel) -> tuple[LogitTransform, int]:
    """Runs the model with scores of our choice in place of its head's.

    Returns:
        The transform, and V, the number of logits: a model may leave out rows that only pad its head.

    Raises:
        ModelLoadError: its logits are no such function of its head's scores.
    """

    def replace_scores(_module: nn.Module, _args: object, scores: Tensor) -> Tensor:
        return probe_scores(scores.shape[-1], scores.device).repeat(*scores.shape[:-1], 1)

    head: nn.Module = model.get_output_embeddings()
    hook = head.register_forward_hook(replace_scores)
    try:
        ids = torch.tensor([[0, 1]], device=model.device)  # these ids are in every vocabulary
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    finally:
        hook.remove()
    try:
        return fit(probe_scores(len(logits), logits.device), logits), len(logits)
    except ValueError as error:
        raise ModelLoadError(
            f"{checkpoint_name(str(model.name_or_path))}: its logits are not its head's scores, scaled or "
            "capped, so experts cannot be scored beside its words; choose another meta"
        ) from error


def probe_scores(num_words: int, device: torch.device) -> Tensor:
    """float64 [V]: small, large and medium scores of both signs, repeated."""
    points = torch.tensor(_POINTS, dtype=torch.float64, device=device)
    return points.repeat(-(-num_words // len(points)))[:num_words]


def fit(scores: Tensor, logits: Tensor) -> LogitTransform:
    """The transform that makes `logits` [V] of the scores [V] that `probe_scores` gives.

    Logits at −inf, of words that the model never writes, do not count. Raises ValueError if there is none.
    """
    scores, logits = scores.double(), logits.double()
    kept = logits.isfinite()
    at_small, at_large = (logits[kept & (scores == point)] for point in (_SMALL, _LARGE))
    if not len(at_small) or not len(at_large):
        raise ValueError("too few words")
    scale, large = float(at_small[0]) / _SMALL, float(at_large[0])
    if scale <= 0:
        raise ValueError(f"scale {scale}")
    # Nine digits are what float32 keeps, and make 1 of 0.99999999999.
    cap = _nine_digits(large) if large < 0.5 * scale * _LARGE else None
    found = LogitTransform(_nine_digits(scale), cap)
    if not torch.allclose(found(scores)[kept], logits[kept], rtol=_RTOL, atol=0.0):
        raise ValueError("another function")
    return found


def _nine_digits(value: float) -> float:
    return float(f"{value:.9g}")
