"""The queries that a new expert is learned from: of a file, or written by a model. Imports torch."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.learning.checkpoints import checkpoints
from cluster.learning.labels import LabelledSet, labelled_queries
from cluster.learning.learned_set import learned_data
from cluster.learning.options import ExpertQueries, LearnOptions
from cluster.learning.query_sets import Warn
from cluster.learning.state_cache import checkpoint_identity, meta_folder
from cluster.learning.synthesize import synthesize_queries
from experts.learn import Query, read_queries
from experts.learn.hidden_states import Progress
from experts.synthesize.questions import Draw
from experts.token import ExpertToken


def expert_data(
    planned: ClusterConfig,
    name: str,
    incumbents: Mapping[str, ExpertToken],
    wanted: ExpertQueries,
    learn_from: Callable[[Path], LearnOptions],
    *,
    save: bool,
    progress: Progress,
    warn: Warn,
) -> tuple[LabelledSet, LearnOptions]:
    """The labelled queries for the expert `name` of the cluster `planned`, and the options to learn with.

    Without a file, the questions that a model writes are joined by the data that the incumbents were learned
    from, as far as it is kept. Their own queries show what they lose. `save`, `warn`: see `labelled_queries`.

    Raises:
        ConfigError: the file is unusable, or no model here can write for this expert.
        ExpertsError: a model cannot be loaded or used, or none of its texts is a question.
    """
    written = _written(planned, name, wanted, progress, warn) if wanted.synthesize else None
    file = wanted.file or written
    assert file is not None, "without a file, the questions are synthesised"
    options = learn_from(file)
    labelled = labelled_queries(
        options,
        checkpoints(planned),
        {name, *incumbents},
        progress,
        warn=warn,
        must_win=[] if written else [name],
        save=save or options.assigned is not None,
    )
    return _joined(labelled, written, planned, incumbents), options


def _written(
    planned: ClusterConfig, name: str, wanted: ExpertQueries, progress: Progress, warn: Warn
) -> Path:
    """The file with the questions; it is kept for later calls, beside the states."""
    draw = Draw(wanted.num_questions)
    sources = checkpoints(planned)
    writer = None if wanted.about or name not in sources else checkpoint_identity(sources[name])
    identity = hashlib.sha256(repr((writer, wanted.about, draw)).encode()).hexdigest()[:16]
    path = meta_folder(planned) / f"questions-{name}-{identity}.jsonl"
    if not path.exists():
        found = synthesize_queries(planned, name, path, draw, about=wanted.about, progress=progress)
        if len(found.questions) < draw.num:
            warn(f"only {len(found.questions)} of {draw.num} questions ({found.summary()})")
    return path


def _joined(
    labelled: LabelledSet,
    written: Path | None,
    planned: ClusterConfig,
    incumbents: Mapping[str, ExpertToken],
) -> LabelledSet:
    """With the questions in `written`, if any; if there is nothing else, with the data of the incumbents."""
    if written is None:
        return labelled
    own = read_queries(written)
    more = _of_incumbents(planned, incumbents) if labelled.queries == own else own
    return replace(labelled, queries=[*labelled.queries, *more], synthesized=written)


def _of_incumbents(planned: ClusterConfig, incumbents: Mapping[str, ExpertToken]) -> list[Query]:
    digests = {token.dataset_digest for token in incumbents.values()}
    kept = learned_data(meta_folder(planned), digests)
    return [query for query in kept if query.expert is None or query.expert in incumbents]
