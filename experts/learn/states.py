"""What a frozen meta says about a query set, computed once: all that learning a token needs of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from transformers import PreTrainedModel

from experts.errors import DataError, InvalidPrompt, ModelLoadError
from experts.learn.queries import Query, broken_lines, dataset_digest
from experts.learn.targets import ANY_WORD, WORD, Targets, find_targets
from experts.prompt import PromptRenderer
from experts.token import head_fingerprint

Progress = Callable[[int, int, str], None]

_FORMAT_VERSION = 1
_MAX_LOGITS = 2**25  # at once: 128 MiB of float32


@dataclass(frozen=True, eq=False)
class States:
    """One row per target position, N in all. With h the last hidden state and z = W_V h the word logits:

    hidden [N, d] float32: h.  log_z [N] float32: logsumexp(z).  max_logit [N] float32: max(z).
    target_logit [N] float32: z of the target word; log_z where any word will do; 0 for experts.
    expert [N] int64: index into `expert_names`, or -1 for a word.  query [N] int64: index of the query.
    head_mean [d] float32: the mean row of W_V.
    """

    hidden: Tensor
    log_z: Tensor
    max_logit: Tensor
    target_logit: Tensor
    expert: Tensor
    query: Tensor
    head_mean: Tensor
    expert_names: tuple[str, ...]
    meta_name: str
    meta_fingerprint: str
    dataset_digest: str

    def __len__(self) -> int:
        return len(self.hidden)

    def save(self, folder: Path | str) -> None:
        """Writes states.safetensors and manifest.json; the manifest last, for it vouches for the rest."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors = {name: value.contiguous() for name, value in values.items() if isinstance(value, Tensor)}
        data = save_tensors(tensors)
        manifest = {name: value for name, value in values.items() if name not in tensors}
        manifest |= {"format_version": _FORMAT_VERSION, "sha256": hashlib.sha256(data).hexdigest()}
        (folder / "states.safetensors").write_bytes(data)
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str) -> States:
        """Raises DataError where the folder is incomplete, damaged or of another format."""
        folder = Path(folder)
        try:
            manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
            data = (folder / "states.safetensors").read_bytes()
            if manifest.pop("format_version") != _FORMAT_VERSION:
                raise ValueError("format version differs")
            if manifest.pop("sha256") != hashlib.sha256(data).hexdigest():
                raise ValueError("states.safetensors does not match its manifest")
            expert_names = tuple(manifest.pop("expert_names"))
            values: dict[str, Any] = manifest | load_tensors(data)
            return cls(**values, expert_names=expert_names)
        except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder}: no usable states: {error}; compute them again") from error


def compute_states(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> States:
    """One forward pass of the frozen meta over `queries`; logits exist for target positions alone.

    Raises DataError (a query does not fit the template or the window, or states are not finite) and
    ModelLoadError (the model's logits are not its head's).
    """
    expert_names = tuple(sorted({query.expert for query in queries if query.expert is not None}))
    targets = _all_targets(model, renderer, queries, expert_names)
    head = cast(nn.Linear, model.eval().get_output_embeddings())
    rows: list[dict[str, Tensor]] = []
    with torch.inference_mode():
        _require_plain_head(model, head, targets[0])
        for batch in _batches(targets, batch_size):
            progress(len(rows), len(queries), "states")
            rows += _batch_rows(model, head, [(index, targets[index]) for index in batch])
        progress(len(rows), len(queries), "states")
        head_mean = head.weight.mean(dim=0, dtype=torch.float32).cpu()
    rows.sort(key=lambda row: int(row["query"][0]))
    tensors = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    _require_finite(tensors, queries)
    return States(
        **tensors,
        head_mean=head_mean,
        expert_names=expert_names,
        meta_name=meta_name(model),
        meta_fingerprint=head_fingerprint(head.weight),
        dataset_digest=dataset_digest(queries),
    )


def meta_name(model: PreTrainedModel) -> str:
    """The hub id of a model, or the name of its folder: where that folder lies is nobody's business."""
    name = str(model.name_or_path)
    return Path(name).resolve().name if name and Path(name).is_dir() else name


def _all_targets(
    model: PreTrainedModel, renderer: PromptRenderer, queries: Sequence[Query], expert_names: Sequence[str]
) -> list[Targets]:
    if not queries:
        raise DataError("there are no queries to learn from; give at least one for every expert")
    max_tokens = getattr(model.config, "max_position_embeddings", None)
    targets, problems = [], []
    for query in queries:
        try:
            targets.append(find_targets(query, renderer, expert_names))
        except InvalidPrompt as error:
            problems.append(f"{query.place}: {error}")
            continue
        if max_tokens and len(targets[-1].ids) > max_tokens:
            problems.append(f"{query.place}: {len(targets[-1].ids)} tokens, but the meta takes {max_tokens}")
    if problems:
        raise DataError(broken_lines("query set", problems, len(queries)))
    return targets


def _require_plain_head(model: PreTrainedModel, head: nn.Linear, targets: Targets) -> None:
    ids = torch.tensor([targets.ids], device=model.device)
    hidden = model.base_model(input_ids=ids).last_hidden_state[:, -1:]
    logits = model(input_ids=ids).logits[:, -1:]
    if not torch.allclose(head(hidden).float(), logits.float(), rtol=1e-2, atol=1e-2):
        raise ModelLoadError(
            f"{meta_name(model)}: its logits are not head times hidden state (scaled or capped), "
            "which expert tokens need; choose another meta"
        )


def _batches(targets: Sequence[Targets], batch_size: int) -> Iterator[list[int]]:
    """Indices, longest prompts first: little padding, and too large a batch fails at once."""
    order = sorted(range(len(targets)), key=lambda index: -len(targets[index].ids))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def _batch_rows(
    model: PreTrainedModel, head: nn.Linear, batch: Sequence[tuple[int, Targets]]
) -> list[dict[str, Tensor]]:
    ids = nn.utils.rnn.pad_sequence([torch.tensor(t.ids) for _, t in batch], batch_first=True)
    mask = nn.utils.rnn.pad_sequence(
        [torch.ones(len(t.ids), dtype=torch.long) for _, t in batch], batch_first=True
    )
    inputs = {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}
    hidden = model.base_model(**inputs, use_cache=False).last_hidden_state
    return [_rows(head, hidden[i, t.positions], index, t) for i, (index, t) in enumerate(batch)]


def _rows(head: nn.Linear, hidden: Tensor, index: int, targets: Targets) -> dict[str, Tensor]:
    words = torch.tensor(targets.words, device=hidden.device)
    chunk = max(1, _MAX_LOGITS // head.weight.shape[0])
    parts = [
        _word_logits(head, h, w)
        for h, w in zip(*(torch.split(x, chunk) for x in (hidden, words)), strict=True)
    ]
    log_z, max_logit, target_logit = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
    experts = torch.tensor(targets.experts)
    return {
        "hidden": hidden.float().cpu(),
        "log_z": log_z,
        "max_logit": max_logit,
        "target_logit": torch.where(experts == WORD, target_logit, 0.0),
        "expert": experts,
        "query": torch.full_like(experts, index),
    }


def _word_logits(head: nn.Linear, hidden: Tensor, words: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    logits = head(hidden).float()
    log_z = logits.logsumexp(dim=-1)
    chosen = logits.gather(-1, words.clamp(min=0)[:, None])[:, 0]
    return log_z, logits.amax(dim=-1), torch.where(words == ANY_WORD, log_z, chosen)


def _require_finite(tensors: dict[str, Tensor], queries: Sequence[Query]) -> None:
    finite = tensors["hidden"].isfinite().all(dim=-1) & tensors["log_z"].isfinite()
    if bool(finite.all()):
        return
    broken = [queries[i] for i in sorted(set(tensors["query"][~finite].tolist()))]
    problems = [f"{query.place}: the meta's states are not finite; try float32" for query in broken]
    raise DataError(broken_lines("query set", problems, len(queries)))
