"""The meta's output head with one extra row per expert, and the one decision every local engine makes.

Chai et al., "An Expert is Worth One Token" (arXiv 2403.16854): next = argmax([W_V; W_E] h).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from experts.token import ExpertToken


@dataclass(frozen=True)
class ExpertTable:
    """The experts a meta knows at one moment; replaced whole. `weight` [E, d], `bias` [E]."""

    epoch: int
    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, epoch: int, tokens: Sequence[ExpertToken], dim: int) -> ExpertTable:
        if not tokens:
            return cls(epoch, (), torch.zeros(0, dim), torch.zeros(0))
        return cls(
            epoch,
            tuple(token.name for token in tokens),
            torch.stack([token.vector for token in tokens]),
            torch.tensor([token.bias for token in tokens]),
        )


class ExtendedHead(nn.Module):
    """A head [V, d] that also scores the experts: [..., d] → [..., V + E].

    Expert ids start at `num_words`, above everything a tokenizer can produce, so no text can be one.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.num_words, self.dim = self.weight.shape
        self.install(ExpertTable.of(0, [], self.dim))

    @property
    def weight(self) -> Tensor:
        """The rows of the words, [V, d]."""
        weight = self.head.weight
        assert isinstance(weight, Tensor)
        return weight

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def install(self, table: ExpertTable) -> None:
        """Swap the experts; the caller makes sure that no step is under way."""
        self.table = table
        self._weight = table.weight.to(self.weight)
        self._bias = table.bias.to(self.weight)

    def forward(self, hidden: Tensor) -> Tensor:
        words: Tensor = self.head(hidden)
        return torch.cat([words, hidden @ self._weight.T + self._bias], dim=-1)


@dataclass(frozen=True)
class Decision:
    """Per row: the index of the expert that takes over, or −1; and its probability, in one softmax with
    every word and every allowed expert (0 where no expert won)."""

    expert: Tensor
    probability: Tensor


def decide(logits: Tensor, num_words: int, allowed: Tensor, bias: Tensor) -> Decision:
    """Choose between writing on and handing over, on raw logits, so that sampling settings cannot route.

    Args:
        logits: [B, V + E], before temperature and every other processor.
        num_words: V.
        allowed: bool [B, E]; bias: float [B, E], added to the experts' logits.

    With every expert allowed and no bias this is the argmax of the paper; a tie goes to the word.
    """
    words = logits[:, :num_words]
    experts = mask_experts(logits[:, num_words:] + bias, allowed)
    score, expert = experts.max(dim=-1)
    wins = score > words.amax(dim=-1)
    probability = torch.zeros_like(score)
    if bool(wins.any()):  # the softmax over the whole vocabulary is paid for at hand-overs alone
        mass = torch.cat([words[wins], experts[wins]], dim=-1).logsumexp(dim=-1)
        probability[wins] = (score[wins] - mass).exp()
    return Decision(torch.where(wins, expert, -1), probability)


def distribution(logits: Tensor, num_words: int, allowed: Tensor, bias: Tensor) -> Tensor:
    """The probability of each expert [B, E]; what is missing to 1 is the words'."""
    experts = mask_experts(logits[:, num_words:] + bias, allowed)
    everything = torch.cat([logits[:, :num_words], experts], dim=-1)
    return everything.softmax(dim=-1)[:, num_words:]


def mask_experts(experts: Tensor, allowed: Tensor) -> Tensor:
    return experts.masked_fill(~allowed, float("-inf"))
