"""Log-probabilities of a prompt's tokens. A continuous batch computes logits only where a token follows, so
this is a forward pass of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

from experts.engine.hf.paged_attention import EAGER_NAME
from experts.engine.sampling.logprobs import IdLogprobs, logprobs_of
from experts.head import ExtendedHead, head_inputs

MAX_LOGITS = 2**25  # at once: 128 MiB of float32


@torch.inference_mode()
def prompt_logprobs(
    model: PreTrainedModel, head: ExtendedHead, prompt: Sequence[int], num_top: int
) -> list[IdLogprobs]:
    """For each token of `prompt`, which are ids. To be called while no step is running.

    The pass takes as long as a prefill, and memory for MAX_LOGITS logits beside that.
    """
    ids = torch.tensor([list(prompt)], device=model.device)
    with _plain_attention(model):
        hidden = head_inputs(model, ids)[0, :-1]
    num_rows = max(1, MAX_LOGITS // head.num_words)
    found = [IdLogprobs(prompt[0], None)]
    for start in range(0, len(hidden), num_rows):
        scores = model.get_output_embeddings()(hidden[start : start + num_rows])
        logits = head.transform(scores[:, : head.num_words])
        following = prompt[start + 1 : start + 1 + len(logits)]
        found += logprobs_of(logits, following, [num_top] * len(following))
    return found


@contextmanager
def _plain_attention(model: PreTrainedModel) -> Iterator[None]:
    """ "sdpa" computes both kinds of batches; the eager function of paged batches needs their cache."""
    name = model.config._attn_implementation
    if name != EAGER_NAME:
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(name)
