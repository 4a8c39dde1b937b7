"""The one forward pass of the frozen meta: what it says at target positions, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.checkpoint import checkpoint_name
from experts.errors import ModelLoadError
from experts.learn.targets import ANY_WORD, WORD, Targets

_MAX_LOGITS = 2**25  # at once: 128 MiB of float32

Item = tuple[int, Targets]  # the index of a query, and its targets


class ForwardPass:
    """Raises ModelLoadError for a model whose logits are not its head times its hidden states."""

    def __init__(self, model: PreTrainedModel, batch_size: int) -> None:
        self._model = model.eval()
        self._batch_size = batch_size
        self.head = cast(nn.Linear, model.get_output_embeddings())
        self._require_plain_head()
        self.head_mean = self.head.weight.detach().mean(dim=0, dtype=torch.float32).cpu()

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
        # Joined out here: a tensor made in inference mode could never take part in a gradient.
        return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}

    @torch.inference_mode()
    def _require_plain_head(self) -> None:
        # Scaling and capping show on any input; ids 0 and 1 are in every vocabulary.
        ids = torch.tensor([[0, 1]], device=self._model.device)
        hidden = self._model.base_model(input_ids=ids, use_cache=False).last_hidden_state
        logits = self._model(input_ids=ids, use_cache=False).logits
        if not torch.allclose(self.head(hidden).float(), logits.float(), rtol=1e-2, atol=1e-2):
            raise ModelLoadError(
                f"{checkpoint_name(str(self._model.name_or_path))}: its logits are not head times hidden "
                "state (scaled or capped), which expert tokens need; choose another meta"
            )

    def _batch_rows(self, batch: Sequence[Item]) -> list[dict[str, Tensor]]:
        ids = nn.utils.rnn.pad_sequence([torch.tensor(t.ids) for _, t in batch], batch_first=True)
        lengths = torch.tensor([len(t.ids) for _, t in batch])
        # Padding stands to the right: under causal attention no target position sees it.
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        device = self._model.device
        output = self._model.base_model(ids.to(device), attention_mask=mask.to(device), use_cache=False)
        hidden = output.last_hidden_state
        return [self._rows(hidden[i, t.positions], index, t) for i, (index, t) in enumerate(batch)]

    def _rows(self, hidden: Tensor, index: int, targets: Targets) -> dict[str, Tensor]:
        words = torch.tensor(targets.words, device=hidden.device)
        chunk = max(1, _MAX_LOGITS // self.head.weight.shape[0])
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
        logits = self.head(hidden).float()
        log_z = logits.logsumexp(dim=-1)
        chosen = logits.gather(-1, words.clamp(min=0)[:, None])[:, 0]
        return log_z, logits.amax(dim=-1), torch.where(words == ANY_WORD, log_z, chosen)


def longest_first(items: Sequence[Item]) -> list[Item]:
    """Little padding, and a batch too large for the memory fails at once rather than at the end."""
    return sorted(items, key=lambda item: -len(item[1].ids))


def _batches(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    ordered = longest_first(items)
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]
