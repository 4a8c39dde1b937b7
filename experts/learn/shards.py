"""Computes states in shards, to bound memory, to continue a killed run, and to share the work."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from safetensors.torch import save as save_tensors

from experts.checkpoint import Checkpoint
from experts.learn.forward import ForwardPass, Item, longest_first
from experts.learn.hidden_states import Progress, States
from experts.learn.queries import Query, dataset_digest
from experts.learn.states_folder import Manifest, ShardOrigin, StatesFolder
from experts.learn.targets import Targets, all_targets, expert_names

Count = Callable[[int], None]  # called with how many queries are done


@dataclass(frozen=True)
class ShardTask:
    """A part of the work that fits into a worker's memory: some queries, by index, as token ids."""

    number: int
    items: tuple[Item, ...]


class ShardWorker:
    """Holds the model; one per device. Creating one loads the model: raises ModelLoadError, TemplateError."""

    def __init__(self, checkpoint: Checkpoint, batch_size: int) -> None:
        model, _ = checkpoint.load()
        self._forward = ForwardPass(model, batch_size)
        self._origin = ShardOrigin(
            checkpoint.fingerprint(), self._forward.transform, self._forward.resolution
        )

    def __call__(self, task: ShardTask, progress: Count = lambda done: None) -> bytes:
        """The shard as safetensors bytes, with its `ShardOrigin` as metadata."""
        tensors = self._forward(task.items, progress) | {"head_mean": self._forward.head_mean}
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        return save_tensors(contiguous, self._origin.to_metadata())


Run = Callable[[Checkpoint, int, Sequence[ShardTask]], Iterator[tuple[int, bytes]]]


def run_here(
    checkpoint: Checkpoint,
    batch_size: int,
    tasks: Sequence[ShardTask],
    progress: Count = lambda done: None,
) -> Iterator[tuple[int, bytes]]:
    """Computes the tasks in this process: yields (number, shard) as each is done.

    `progress` is called after every batch, because a shard may take minutes.
    """
    worker = ShardWorker(checkpoint, batch_size)
    num_before = 0
    for task in tasks:
        yield task.number, worker(task, partial(_add, progress, num_before))
        num_before += len(task.items)


def cache_states(
    checkpoint: Checkpoint,
    queries: Sequence[Query],
    folder: Path,
    *,
    batch_size: int = 16,
    shard_size: int = 256,
    run: Run | None = None,
    progress: Progress = lambda done, total, what: None,
) -> States:
    """The states of `queries` under the meta `checkpoint`, kept in `folder`; finished shards are not redone.

    Only one shard of `shard_size` queries is in memory until all are done. `run` computes the tasks, by
    default here: the shards depend on the batches alone.
    Raises DataError (a query does not fit the template or the window, states are not finite, or `folder`
    holds states of another meta or of other queries), ModelLoadError, TemplateError.
    """
    names = expert_names(queries)
    targets = all_targets(queries, checkpoint.load_renderer(), names, checkpoint.max_tokens())
    store = StatesFolder(folder, _manifest(checkpoint, queries, names, shard_size), checkpoint.folder())
    tasks = {task.number: task for task in _tasks(targets, shard_size)}
    missing = [tasks[number] for number in sorted(tasks.keys() - store.finished())]
    num_done = num_kept = len(queries) - sum(len(task.items) for task in missing)
    progress(num_done, len(queries), "states")
    if run is None:
        run = partial(run_here, progress=lambda done: progress(num_kept + done, len(queries), "states"))
    # `run` loads the model, so it is not called if no shard is missing.
    for number, shard in run(checkpoint, batch_size, missing) if missing else ():
        store.add(number, shard, queries)
        num_done += len(tasks[number].items)
        progress(num_done, len(queries), "states")
    return store.load(len(tasks))


def _add(progress: Count, num_before: int, num_done: int) -> None:
    progress(num_before + num_done)


def _manifest(
    checkpoint: Checkpoint, queries: Sequence[Query], names: tuple[str, ...], shard_size: int
) -> Manifest:
    return Manifest(
        meta_name=checkpoint.name,
        meta_fingerprint=checkpoint.fingerprint(),
        dataset_digest=dataset_digest(queries),
        dtype=checkpoint.dtype,
        expert_names=names,
        shard_size=shard_size,
    )


def _tasks(targets: Sequence[Targets], shard_size: int) -> Iterator[ShardTask]:
    ordered = longest_first(list(enumerate(targets)))
    for number, start in enumerate(range(0, len(ordered), shard_size)):
        yield ShardTask(number, tuple(ordered[start : start + shard_size]))
