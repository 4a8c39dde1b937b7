"""Query sets with every query labelled: those that come without are given to the likeliest model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from cluster.errors import ConfigError
from cluster.learn_options import LearnOptions
from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.evaluate.evaluation import require_known
from experts.learn import Query, read_queries
from experts.learn.assign import AssignedSet, assign_queries
from experts.learn.states import Progress


@dataclass(frozen=True)
class LabelledSet:
    """`num_assigned`: how many of the unlabelled queries went to whom, None being nobody; most first.

    `saved_to`: the file they were written to with their scores; None where nothing was.
    """

    queries: list[Query]
    num_assigned: dict[str | None, int]
    saved_to: Path | None


def labelled_queries(
    options: LearnOptions,
    checkpoints: Mapping[str, Checkpoint],
    progress: Progress,
    *,
    must_win: Collection[str] | None = None,
    save: bool = True,
) -> LabelledSet:
    """Reads the data; if a query has no label, scores it under all `checkpoints` and saves the whole set.

    `must_win`: the experts that need a query of their own, by default all.

    Raises:
        ConfigError: the data is unusable, or the labelled set cannot be written.
        ExpertsError: a model cannot be loaded or used.
    """
    try:
        queries = read_queries(options.data)
        if all(query.labelled for query in queries):
            return LabelledSet(queries, {}, None)
        assigned = assign_queries(
            checkpoints,
            queries,
            margin=options.margin,
            must_win=must_win,
            batch_size=options.batch_size,
            progress=progress,
        )
    except DataError as error:
        raise in_data(options.data, error) from error
    given = Counter(one.expert for one in assigned.assignments if one is not None)
    return LabelledSet(
        assigned.queries, dict(given.most_common()), _saved(assigned, options) if save else None
    )


def known_queries(data: Path, names: Collection[str]) -> list[Query]:
    """Reads data in which all is labelled, with these names alone. Raises ConfigError, DataError."""
    queries = read_queries(data)
    try:
        require_known(queries, sorted(names))
    except DataError as error:
        raise in_data(data, error) from error
    return queries


def in_data(data: Path, error: DataError) -> ConfigError:
    """The same error with the name of the file, if it is not there yet."""
    return ConfigError([f"{data}: {str(error).removeprefix(f'{data}: ')}"])


def _saved(assigned: AssignedSet, options: LearnOptions) -> Path:
    path = options.assigned or options.data.with_name(f"{options.data.stem}.assigned.jsonl")
    # The scores would be kept, but what was unlabelled could never be scored again.
    if path.resolve() == options.data.resolve():
        raise ConfigError([f"{path}: is the data itself; name another file with --assigned"])
    try:
        assigned.save(path)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be written: {error.strerror}; use --assigned"]) from error
    return path
