"""Checks a greedy answer against one plain forward pass over it.

Position by position, that pass has the logits with which the loop of `reference_loop.py` would have decided.
An answer is the loop's own if each of its choices is the argmax there: one pass does the work of many.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from tests.support.reference_loop import ReferenceModel


def prompt_ids(model: ReferenceModel, messages: Sequence[Mapping[str, str]], written: str) -> list[int]:
    rendered = model.tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
    return list(model.tokenizer(rendered + written, add_special_tokens=False)["input_ids"])


@torch.no_grad()
def answer_logits(
    model: ReferenceModel, prompt: Sequence[int], ids: Sequence[int], *, routed: bool
) -> Tensor:
    """Logits of each token of the answer and of what follows it, float32 [len(ids) + 1, V + E].

    They are −inf for experts that may not take over: all of them unless `routed`, and inside a character.
    """
    inputs = torch.tensor([[*prompt, *ids]])
    hidden: Tensor = model.model.model(inputs, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
    logits = hidden @ model.head.T + model.bias
    for i in range(len(ids) + 1):
        if not routed or str(model.tokenizer.decode(ids[:i])).endswith("\ufffd"):
            logits[i, model.num_words :] = float("-inf")
    return logits


def shortfalls(logits: Tensor, ids: Sequence[int], ending: Sequence[int]) -> list[float]:
    """By how much each choice is below the best logit: 0 where it is the argmax.

    `ending`: the ids of which one ended the answer; none if it ended at its limit.
    """
    best = logits.amax(dim=-1)
    chosen = [logits[i, token_id] for i, token_id in enumerate(ids)]
    if ending:
        chosen.append(logits[-1, list(ending)].max())
    return [float(best[i] - logit) for i, logit in enumerate(chosen)]
