"""Query sets with a label for every query: those without one go to the likeliest model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ConfigError
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import Warn, data_errors_named, usable_queries
from experts.checkpoint import Checkpoint
from experts.learn import Query
from experts.learn.assign import META, AssignedSet, assign_queries
from experts.learn.hidden_states import Progress


@dataclass(frozen=True)
class LabelledSet:
    """`num_assigned`: how many unlabelled queries each expert got, most first; None is no expert.

    `saved_to`: the file with the labelled queries and their scores; None if none was written. `synthesized`:
    the file with those that a model wrote; None if none did.
    """

    queries: list[Query]
    num_assigned: dict[str | None, int]
    saved_to: Path | None
    synthesized: Path | None = None


def labelled_queries(
    options: LearnOptions,
    checkpoints: Mapping[str, Checkpoint],
    names: Collection[str],
    progress: Progress,
    *,
    warn: Warn,
    must_win: Collection[str] | None = None,
    save: bool = True,
) -> LabelledSet:
    """Reads the data; if queries have no label, scores them under all `checkpoints` and saves the whole set.

    `names`: the experts that a label may name. `warn`: see `read_queries`.
    `must_win`: the experts that must get at least one query, by default all.

    Raises:
        ConfigError: the data is unusable, or the labelled set cannot be written.
        ExpertsError: a model cannot be loaded or used.
    """
    queries = usable_queries(
        options.data,
        checkpoints[META],
        names,
        all_labelled=False,
        skip_broken=options.skip_broken,
        warn=warn,
    )
    if all(query.labelled for query in queries):
        return LabelledSet(queries, {}, None)
    assigned = _assigned(queries, options, checkpoints, progress, must_win)
    counts = Counter(assignment.expert for assignment in assigned.assignments if assignment is not None)
    saved_to = _saved(assigned, options) if save else None
    return LabelledSet(assigned.queries, dict(counts.most_common()), saved_to)


def _assigned(
    queries: Sequence[Query],
    options: LearnOptions,
    checkpoints: Mapping[str, Checkpoint],
    progress: Progress,
    must_win: Collection[str] | None,
) -> AssignedSet:
    with data_errors_named(options.data):
        return assign_queries(
            checkpoints,
            queries,
            margin=options.margin,
            must_win=must_win,
            batch_size=options.batch_size,
            progress=progress,
        )


def _saved(assigned: AssignedSet, options: LearnOptions) -> Path:
    path = options.assigned or options.data.with_name(f"{options.data.stem}.assigned.jsonl")
    # Overwriting the data would lose which queries had no label, so they could never be scored again.
    if path.resolve() == options.data.resolve():
        raise ConfigError([f"{path}: is the data itself; use --assigned to name another file"])
    try:
        assigned.save(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}; use --assigned"]) from error
    return path
