"""How a token is chosen under sampling options, written down a second time: one row, one step, no state."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from experts.engine.request import SamplingOptions
from tests.support.reference_loop import ReferenceModel


def greedy_ids(
    reference: ReferenceModel,
    before: Sequence[int],
    written: Sequence[int],
    options: SamplingOptions,
    max_tokens: int,
    bad_words: Sequence[Sequence[int]] = (),
) -> list[int]:
    """The ids that follow `before` and `written`, where `written` belongs to the answer already."""
    answer = list(written)
    ends = (set() if options.ignore_eos else reference.stop_ids) | set(options.stop_token_ids)
    while len(answer) < len(written) + max_tokens:
        logits = reference.logits([*before, *answer]).clone()
        for token_id in range(len(logits)):
            is_allowed = options.allowed_token_ids is None or token_id in options.allowed_token_ids
            is_early = token_id in ends and len(answer) - len(written) < options.min_tokens
            is_bad = any(
                word[-1] == token_id and answer[len(answer) - len(word) + 1 :] == list(word[:-1])
                for word in bad_words
            )
            if not is_allowed or is_early or is_bad:
                logits[token_id] = float("-inf")
        for token_id, bias in options.logit_bias.items():
            logits[token_id] += bias
        choice = int(penalised(logits, before, answer, options).argmax())
        if choice in ends:
            break
        answer.append(choice)
    return answer[len(written) :]


def penalised(
    logits: torch.Tensor, before: Sequence[int], answer: Sequence[int], options: SamplingOptions
) -> torch.Tensor:
    for token_id in {*before, *answer}:
        factor = options.repetition_penalty
        logits[token_id] = logits[token_id] / factor if logits[token_id] > 0 else logits[token_id] * factor
    for token_id, count in Counter(answer).items():
        logits[token_id] -= options.frequency_penalty * count + options.presence_penalty
    return logits
