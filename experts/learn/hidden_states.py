"""The hidden states of a frozen meta on a query set, computed once: all that learning needs of the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from experts.checkpoint import checkpoint_name
from experts.errors import DataError
from experts.learn.forward import ForwardPass
from experts.learn.queries import QUERY_SET, Query, broken_rows, dataset_digest
from experts.learn.targets import all_targets, expert_names
from experts.logit_transform import LogitTransform
from experts.prompt import PromptRenderer
from experts.token import head_fingerprint

# Called with how many are done, of how many (0: that is not known), and the name of the stage.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class States:
    """One row per target position, N in total. With h the head's input, and z = f(W_V h) the word logits:

    hidden [N, d] float32: h.  log_z [N] float32: logsumexp(z).  max_logit [N] float32: max(z).
    target_logit [N] float32: z of the target word; log_z if any word is right; 0 for experts.
    expert [N] int64: index into `expert_names`, or -1 for a word.  query [N] int64: index of the query,
    ascending; each query's rows are in the order of its positions.
    head_mean [d] float32: the mean row of W_V.  transform: f.
    resolution: of the dtype that the meta computed in, from 1 to the next larger number.
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
    transform: LogitTransform = LogitTransform()
    resolution: float = torch.finfo(torch.float32).eps

    def __len__(self) -> int:
        return len(self.hidden)

    @property
    def num_queries(self) -> int:
        return len(torch.unique_consecutive(self.query))

    @property
    def first_rows(self) -> Tensor:
        """int64 [queries]: index of each query's first row, which is at the end of its prompt."""
        sizes = torch.unique_consecutive(self.query, return_counts=True)[1]
        starts: Tensor = sizes.cumsum(dim=0) - sizes
        return starts

    def of_queries(self, indices: Sequence[int]) -> States:
        """The rows of these queries, renumbered from 0 in the order given."""
        sizes = torch.unique_consecutive(self.query, return_counts=True)[1].tolist()
        by_query = torch.split(torch.arange(len(self)), sizes)
        chosen = [by_query[index] for index in indices]
        rows = torch.cat([torch.empty(0, dtype=torch.int64), *chosen])
        lengths = torch.tensor([len(own) for own in chosen], dtype=torch.int64)
        numbers = torch.arange(len(chosen)).repeat_interleave(lengths)
        picked = {name: getattr(self, name)[rows] for name in ROW_TENSORS if name != "query"}
        return replace(self, **picked, query=numbers)


# The tensors with one row per position, so without `head_mean`.
ROW_TENSORS = tuple(field.name for field in fields(States) if field.type == "Tensor")[:-1]


def compute_states(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    queries: Sequence[Query],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> States:
    """One forward pass of the frozen meta over `queries`, kept in memory; `cache_states` keeps it on disk.

    The fingerprint is that of the head as loaded; load it in the dtype of its files.
    Raises DataError (a query does not fit the template or the window, or states are not finite) and
    ModelLoadError (the model's logits are not its head's scores, scaled or capped).
    """
    names = expert_names(queries)
    targets = all_targets(queries, renderer, names, getattr(model.config, "max_position_embeddings", None))
    forward = ForwardPass(model, batch_size)
    tensors = forward(list(enumerate(targets)), lambda done: progress(done, len(queries), "states"))
    require_finite(tensors["hidden"], tensors["log_z"], tensors["query"], queries)
    weight = forward.head.weight
    assert isinstance(weight, Tensor)
    return States(
        **tensors,
        head_mean=forward.head_mean,
        expert_names=names,
        meta_name=checkpoint_name(str(model.name_or_path)),
        meta_fingerprint=head_fingerprint(weight),
        dataset_digest=dataset_digest(queries),
        transform=forward.transform,
        resolution=forward.resolution,
    )


def require_finite(hidden: Tensor, log_z: Tensor, query_index: Tensor, queries: Sequence[Query]) -> None:
    """Raises DataError with the queries, and their experts, whose states are not finite."""
    finite = hidden.isfinite().all(dim=-1) & log_z.isfinite()
    if bool(finite.all()):
        return
    broken = [queries[i] for i in sorted(set(query_index[~finite].tolist()))]
    problems = [
        f"{query.place} ({query.expert or 'no expert'}): the meta's states are not finite; try dtype float32"
        for query in broken
    ]
    raise DataError(broken_rows(QUERY_SET, problems, len(queries)))
