"""The loss that the cached loss replaces: the whole frozen model runs, with the head [W_V; W_E]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from experts.learn.targets import ANY_WORD, WORD, Targets

Batch = dict[str, Tensor]


class WholeModel(nn.Module):
    """A frozen meta with trainable expert rows [E, d] and, `with_bias`, trainable biases [E]."""

    def __init__(self, meta: PreTrainedModel, rows: Tensor, bias: Tensor, *, with_bias: bool) -> None:
        super().__init__()
        self.meta = meta.requires_grad_(False)
        self.rows = nn.Parameter(rows.clone())
        self.bias = nn.Parameter(bias.clone(), requires_grad=with_bias)

    def forward(self, ids: Tensor, mask: Tensor, row: Tensor, column: Tensor, goal: Tensor) -> Tensor:
        """Mean cross entropy over the positions (row, column) of `ids` [B, T]; `goal` counts from 0 to V + E.

        The backward pass ends at the head, because nothing below it needs a gradient.
        """
        states = self.meta.base_model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        hidden = states[row, column]
        words = self.meta.get_output_embeddings()(hidden)
        return cross_entropy(torch.cat([words, hidden @ self.rows.T + self.bias], dim=-1), goal)


def collate(targets: Sequence[Targets], num_words: int) -> Batch:
    """The arguments of `WholeModel.forward`: padded on the right to the longest prompt of the batch."""
    ids = [torch.tensor(target.ids) for target in targets]
    # Flat pairs, because prompts have different numbers of positions.
    row = [index for index, target in enumerate(targets) for _ in target.positions]
    return {
        "ids": pad_sequence(ids, batch_first=True),
        "mask": pad_sequence([torch.ones_like(row_ids) for row_ids in ids], batch_first=True),
        "row": torch.tensor(row),
        "column": torch.tensor([position for target in targets for position in target.positions]),
        "goal": torch.tensor([goal for target in targets for goal in _goals(target, num_words)]),
    }


def _goals(targets: Targets, num_words: int) -> list[int]:
    assert ANY_WORD not in targets.words[:-1], "only a query without an answer takes any word"
    pairs = zip(targets.words, targets.experts, strict=True)
    return [word if expert == WORD else num_words + expert for word, expert in pairs]
