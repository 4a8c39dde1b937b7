"""The numbers of a decision that are reported, beside the decision itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.engine.routing_report import MAX_CANDIDATES, Candidates
from experts.head import ExpertTable, log_mass


def candidates_of(
    words: Tensor, rows: Tensor, experts: Tensor, best_word: Tensor, names: Sequence[str]
) -> list[Candidates]:
    """What each of B rows chose from.

    Args:
        words: logits [N, V], of any float type.
        rows: int64 [B], of `words`.
        experts: logits, float32 [B, E], with −inf for those that are not allowed.
        best_word: float [B], the largest logit of a word.
        names: of the experts.
    """
    mass = log_mass(words, rows, experts)
    scores, indices = experts.topk(min(MAX_CANDIDATES, experts.shape[1]), dim=-1)
    best, logprobs = (best_word.float() - mass).tolist(), (scores - mass[:, None]).tolist()
    return [
        Candidates(
            word, tuple((names[i], score) for i, score in zip(*row, strict=True) if score > -torch.inf)
        )
        for word, *row in zip(best, indices.tolist(), logprobs, strict=True)
    ]


def find_shadow_wins(
    shadows: Tensor, experts: Tensor, best_word: Tensor, table: ExpertTable
) -> list[tuple[int, int]]:
    """Row and shadow, where the shadow beats every word and every expert but the one that it replaces.

    Shadows do not compete with each other. `shadows`: logits, float32 [B, S], with −inf for those that are
    not asked for; the rest as for `candidates_of`.
    """
    assert table.shadows is not None
    rivals = [_best_rival(experts, best_word, table, s) for s in range(len(table.shadows.names))]
    wins = shadows > torch.stack(rivals, dim=-1)
    return [(row, shadow) for row, shadow in wins.nonzero().tolist()]


def shadow_probability(words: Tensor, row: Tensor, experts: Tensor, logit: Tensor) -> float:
    """Of a shadow with this `logit`, in one softmax over the words, the experts and itself.

    `row`: int64 [1], of `words`; `experts`: float32 [1, E], with −inf for those that are not allowed.
    """
    mass = log_mass(words, row, experts)
    return float((logit - torch.logaddexp(mass, logit)).exp())


def without_replaced(experts: Tensor, table: ExpertTable, shadow: int) -> Tensor:
    """Logits [B, E], with −inf for the expert that this shadow replaces."""
    assert table.shadows is not None
    replaced = table.shadows.replaces[shadow]
    if replaced not in table.names:
        return experts
    others = experts.clone()
    others[:, table.names.index(replaced)] = -torch.inf
    return others


def _best_rival(experts: Tensor, best_word: Tensor, table: ExpertTable, shadow: int) -> Tensor:
    if not table.names:
        return best_word.float()
    return torch.maximum(best_word.float(), without_replaced(experts, table, shadow).amax(dim=-1))
