"""The meta's output head with one extra row per expert, and the decision that every local engine makes.

Chai et al., "An Expert is Worth One Token" (arXiv 2403.16854): next = argmax([W_V; W_E] h).

A model may scale or cap its head's scores (`LogitTransform` f). An expert is a row of the same head, so its
logit is f(h·w + b). A request's bias is added to that logit, as other settings of requests change logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.logit_transform import LogitTransform, measure
from experts.shadow import ShadowTable, ShadowToken
from experts.token import ExpertToken


@dataclass(frozen=True)
class ExpertTable:
    """The experts of a meta, in the order of `names`; always replaced as a whole.

    `weight`: float32 [E, d], the expert tokens' vectors; `bias`: float32 [E], added to their scores.
    `shadows`: None if there are none.
    """

    table_version: int
    names: tuple[str, ...]
    weight: Tensor
    bias: Tensor
    shadows: ShadowTable | None = None

    @classmethod
    def of(
        cls,
        table_version: int,
        tokens: Sequence[ExpertToken],
        dim: int,
        shadows: Sequence[ShadowToken] = (),
    ) -> ExpertTable:
        """`dim`: d, the size of a hidden state."""
        shadow_table = ShadowTable.of(shadows)
        if not tokens:
            return cls(table_version, (), torch.zeros(0, dim), torch.zeros(0), shadow_table)
        return cls(
            table_version,
            tuple(token.name for token in tokens),
            torch.stack([token.vector for token in tokens]),
            torch.tensor([token.bias for token in tokens]),
            shadow_table,
        )

    @property
    def scores_any(self) -> bool:
        return bool(self.names) or self.shadows is not None

    def on(self, device: torch.device) -> ExpertTable:
        """The same on another device, and still in float32: in bfloat16 a logit of 16 has steps of 0.125, and
        smaller biases would have no effect."""
        shadows = None if self.shadows is None else self.shadows.on(device)
        return replace(self, weight=self.weight.to(device), bias=self.bias.to(device), shadows=shadows)

    def logits(self, hidden: Tensor, transform: LogitTransform) -> Tensor:
        """Inputs of the head [B, d], of any float type → float32 [B, E]."""
        return transform(torch.addmm(self.bias, hidden.float(), self.weight.T))


class ExtendedHead:
    """The output head of a model, which scores experts too. The model stays as it is.

    It keeps what the head gets at each forward pass, [1, T, d]. Experts are scored for the rows that need it.

    Raises:
        ModelLoadError: the model's logits are not its head's scores, scaled or capped.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.transform, self.num_words = measure(model)
        head: nn.Module = model.get_output_embeddings()
        self.dim = input_size(head)
        self.device = model.device
        self._hidden = torch.zeros(1, 0, self.dim)
        self._kept_rows: Tensor | None = None
        self.install(ExpertTable.of(0, [], self.dim))
        model.register_forward_pre_hook(self._keep_rows, with_kwargs=True)
        head.register_forward_pre_hook(self._keep_hidden)

    def install(self, table: ExpertTable) -> None:
        """Replace the experts. The caller must make sure that no step is running."""
        self.table = table.on(self.device)

    def inputs(self, num_rows: int, rows: Sequence[int]) -> Tensor:
        """[len(rows), d], for these of the `num_rows` rows of logits of the last forward pass."""
        hidden = self._hidden[0]
        if len(hidden) != num_rows:  # the model computes logits at every position, and others are dropped
            assert self._kept_rows is not None
            hidden = hidden[self._kept_rows]
        return hidden if len(rows) == num_rows else hidden[list(rows)]

    def _keep_rows(self, _module: nn.Module, _args: object, kwargs: dict[str, Tensor]) -> None:
        """Hugging Face's continuous batching says which positions predict a token."""
        self._kept_rows = kwargs.get("logits_indices")

    def _keep_hidden(self, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self._hidden = args[0]


def head_inputs(model: PreTrainedModel, ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the head gets in a forward pass over `ids` int [B, T], without a cache: [B, T, d].

    Not simply the last hidden states, because a model may change them before its head. `mask`: int [B, T], 0
    for padding.
    """
    head = model.get_output_embeddings()
    stand_in = _StandIn(head)
    model.set_output_embeddings(stand_in)
    try:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    finally:
        model.set_output_embeddings(head)
    return stand_in.hidden


class _StandIn(nn.Module):
    """Takes the head's place, so that no logits are computed where none are needed; keeps its input."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.weight = head.weight  # some models read its dtype
        self.hidden = torch.empty(0)

    def forward(self, hidden: Tensor) -> Tensor:
        self.hidden = hidden
        return hidden[..., :1]


def input_size(head: nn.Module) -> int:
    """d. The weight itself does not tell, if it is quantised and packed."""
    if isinstance(head, nn.Linear):
        return head.in_features
    assert isinstance(head.weight, Tensor)
    return head.weight.shape[1]


@dataclass(frozen=True)
class Decision:
    """The outcome for each of B rows.

    `expert`: int64 [B], the index of the expert that takes over, or −1. `probability`: float32 [B], of that
    expert in one softmax over all words and allowed experts; 0 if no expert won. `best_word`: float [B], the
    largest logit of a word.
    """

    expert: Tensor
    probability: Tensor
    best_word: Tensor


def decide(words: Tensor, rows: Tensor, experts: Tensor, allowed: Tensor, bias: Tensor) -> Decision:
    """Decide whether each row continues or hands over, on raw logits: sampling settings must not route.

    Args:
        words: logits [N, V] as the model gives them, of any float type, before temperature and all other
            processing. They are not copied: with large batches and vocabularies that would take as long as
            the head itself.
        rows: int64 [B], the rows of `words` to decide.
        experts: logits, float32 [B, E].
        allowed: bool [B, E], the experts that may win.
        bias: float32 [B, E], added to the experts' logits.

    If all experts are allowed and the bias is 0, this is the argmax of the paper. In a tie the word wins.
    """
    best_word = words.amax(dim=-1)[rows]
    if not experts.shape[1]:
        return Decision(torch.full_like(rows, -1), torch.zeros_like(best_word).float(), best_word)
    experts = mask_experts(experts + bias, allowed)
    score, expert = experts.max(dim=-1)
    wins = score > best_word
    probability = torch.zeros_like(score)
    if bool(wins.any()):  # the softmax over the vocabulary is computed only if something hands over
        mass = log_mass(words, rows[wins], experts[wins])
        probability[wins] = (score[wins] - mass).exp()
    return Decision(torch.where(wins, expert, -1), probability, best_word)


def distribution(words: Tensor, rows: Tensor, experts: Tensor, allowed: Tensor, bias: Tensor) -> Tensor:
    """The probability of each expert, float32 [B, E], in one softmax over all words and allowed experts.

    Arguments as for `decide`.
    """
    experts = mask_experts(experts + bias, allowed)
    return (experts - log_mass(words, rows, experts)[:, None]).exp()


def mask_experts(experts: Tensor, allowed: Tensor) -> Tensor:
    """Logits float [B, E], with −inf for experts that are not allowed (bool [B, E])."""
    return experts.masked_fill(~allowed, float("-inf"))


def log_mass(words: Tensor, rows: Tensor, experts: Tensor) -> Tensor:
    """float32 [B]: the logarithm of what a softmax over words and experts divides by."""
    return torch.logaddexp(words[rows].float().logsumexp(dim=-1), experts.logsumexp(dim=-1))
