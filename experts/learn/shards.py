"""States shard by shard: so that memory is bounded, a killed run goes on where it was, and many can help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import save as save_tensors

from experts.checkpoint import Checkpoint
from experts.learn.forward import ForwardPass, Item, longest_first
from experts.learn.queries import Query, dataset_digest
from experts.learn.states import Progress, States
from experts.learn.states_folder import Manifest, StatesFolder
from experts.learn.targets import Targets, all_targets, expert_names
from experts.token import head_fingerprint


@dataclass(frozen=True)
class ShardTask:
    """A part of the work that fits a worker's memory: some queries, by index, as token ids."""

    number: int
    items: tuple[Item, ...]


class ShardWorker:
    """Holds the model; one a device. Loading raises ModelLoadError, TemplateError."""

    def __init__(self, checkpoint: Checkpoint, batch_size: int) -> None:
        model, _ = checkpoint.load()
        self._forward = ForwardPass(model, batch_size)
        self._fingerprint = head_fingerprint(self._forward.head.weight)

    def __call__(self, task: ShardTask) -> bytes:
        """The shard as safetensors; its metadata says which meta it is of."""
        tensors = self._forward(task.items) | {"head_mean": self._forward.head_mean}
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        return save_tensors(contiguous, {"meta_fingerprint": self._fingerprint})


Run = Callable[[Checkpoint, int, Sequence[ShardTask]], Iterator[tuple[int, bytes]]]


def run_here(
    checkpoint: Checkpoint, batch_size: int, tasks: Sequence[ShardTask]
) -> Iterator[tuple[int, bytes]]:
    """Computes the tasks in this process: (number, shard) of each as it is done."""
    worker = ShardWorker(checkpoint, batch_size)
    for task in tasks:
        yield task.number, worker(task)


def cache_states(
    checkpoint: Checkpoint,
    queries: Sequence[Query],
    folder: Path,
    *,
    batch_size: int = 16,
    shard_size: int = 256,
    run: Run = run_here,
    progress: Progress = lambda done, total, what: None,
) -> States:
    """The states of `queries` under the meta `checkpoint`, kept in `folder`: what is there is not done again.

    Nothing but one shard of `shard_size` queries is in memory until all are done. The shards depend on the
    batches alone, not on who computes them: `run` may be any way of getting tasks done.
    Raises DataError (a query does not fit the template or the window, states are not finite, or `folder`
    holds states of another meta or of other queries), ModelLoadError, TemplateError.
    """
    names = expert_names(queries)
    targets = all_targets(queries, checkpoint.load_renderer(), names, checkpoint.max_tokens())
    store = StatesFolder(folder, _manifest(checkpoint, queries, names, shard_size))
    tasks = {task.number: task for task in _tasks(targets, shard_size)}
    missing = [tasks[number] for number in sorted(tasks.keys() - store.finished())]
    num_done = len(queries) - sum(len(task.items) for task in missing)
    progress(num_done, len(queries), "states")
    # Where all is there, no model is loaded.
    for number, shard in run(checkpoint, batch_size, missing) if missing else ():
        store.add(number, shard, queries)
        num_done += len(tasks[number].items)
        progress(num_done, len(queries), "states")
    return store.load(len(tasks))


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
