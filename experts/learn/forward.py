"""The forward pass of the frozen meta: its head's inputs and logits at the target positions alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.head import head_inputs, input_size
from experts.learn.targets import ANY_WORD, WORD, Targets
from experts.logit_transform import measure

_MAX_LOGITS = 2**25  # at once: 128 MiB of float32

Item = tuple[int, Targets]  # the index of a query, and its targets


class ForwardPass:
    """Runs the meta over queries, in batches.

    `transform`: from the head's scores to logits. `resolution`: of the model's dtype, from 1 to the next
    larger number. `head_mean`: float32 [d], the mean row of the head.

    Creating one raises ModelLoadError if the model's logits are not its head's scores, scaled or capped.
    """

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        self._model = model.eval()
        self._batch_size = batch_size
        self.head: nn.Module = model.get_output_embeddings()
        self.transform, self._num_words = measure(model)
        self.resolution = torch.finfo(model.dtype).eps
        self.head_mean = _mean_row(self.head, model)

    def __call__(
        self, items: Sequence[Item], progress: Callable[[int], None] = lambda done: None
    ) -> dict[str, Tensor]:
        """The row tensors of `States`, by name, in the order of the queries' indices."""
        rows: list[dict[str, Tensor]] = []
        with torch.inference_mode():
            for batch in _batches(items, self._batch_size):
                progress(len(rows))
                rows += self._batch_rows(batch)
        progress(len(rows))
        rows.sort(key=lambda row: int(row["query"][0]))
        # Concatenated outside inference mode: a tensor made inside it can never take part in a gradient.
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    def _batch_rows(self, batch: Sequence[Item]) -> list[dict[str, Tensor]]:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(t.ids) for _, t in batch], batch_first=True)
        lengths = torch.tensor([len(t.ids) for _, t in batch])
        # Padding is on the right: with causal attention no target position sees it.
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        hidden = head_inputs(self._model, ids.to(self._model.device), mask.to(self._model.device))
        return [self._rows(hidden[i, t.positions], index, t) for i, (index, t) in enumerate(batch)]

    def _rows(self, hidden: Tensor, index: int, targets: Targets) -> dict[str, Tensor]:
        words = torch.tensor(targets.words, device=hidden.device)
        chunk = max(1, _MAX_LOGITS // self._num_words)
        pairs = zip(torch.split(hidden, chunk), torch.split(words, chunk), strict=True)
        columns = zip(*(self._word_logits(h, w) for h, w in pairs), strict=True)
        log_z, max_logit, target_logit = (torch.cat(column).cpu() for column in columns)
        experts = torch.tensor(targets.experts)
        return {
            "hidden": hidden.float().cpu(),
            "log_z": log_z,
            "max_logit": max_logit,
            "target_logit": torch.where(experts == WORD, target_logit, 0.0),
            "expert": experts,
            "query": torch.full_like(experts, index),
        }

    def _word_logits(self, hidden: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        logits = self.transform(self.head(hidden)[..., : self._num_words]).float()
        log_z = logits.logsumexp(dim=-1)
        chosen = logits.gather(-1, words.clamp(min=0)[:, None])[:, 0]
        return log_z, logits.amax(dim=-1), torch.where(words == ANY_WORD, log_z, chosen)


@torch.inference_mode()
def _mean_row(head: nn.Module, model: PreTrainedModel) -> Tensor:
    """float32 [d]. A quantised weight cannot be read, but the mean score of all words is linear in the head's
    input, and this row is its slope."""
    if type(head) is nn.Linear:
        return head.weight.mean(dim=0, dtype=torch.float32).cpu()
    inputs = torch.eye(input_size(head), device=model.device)
    inputs = torch.cat([torch.zeros_like(inputs[:1]), inputs]).to(model.dtype)
    chunk = max(1, _MAX_LOGITS // len(head(inputs[:1])[0]))
    means = torch.cat([head(rows).mean(dim=-1, dtype=torch.float32) for rows in torch.split(inputs, chunk)])
    return (means[1:] - means[0]).cpu()


def longest_first(items: Sequence[Item]) -> list[Item]:
    """For little padding, and so that a batch too large for the memory fails at the start, not at the end."""
    return sorted(items, key=lambda item: -len(item[1].ids))


def _batches(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    ordered = longest_first(items)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]
