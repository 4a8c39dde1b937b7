"""Learn the token of every expert in a cluster.yaml and put it where the file says. Imports torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cluster.checkpoints import checkpoints, default_device
from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from cluster.labels import LabelledSet, in_data, labelled_queries
from cluster.learn_options import LearnOptions
from cluster.state_cache import cached_states
from experts.errors import DataError
from experts.learn.fit import DEFAULT_L2
from experts.learn.learn import Lesson, learn_tokens, require_labels
from experts.learn.states import Progress
from experts.token import ExpertToken


@dataclass(frozen=True)
class Learned:
    lesson: Lesson
    labelled: LabelledSet
    states_folder: Path


def learn_all(
    config: ClusterConfig,
    options: LearnOptions,
    *,
    l2: float | None = None,
    false_trigger_rate: float | None = None,
    progress: Progress,
) -> Learned:
    """Learns all tokens anew; none is written unless all succeed.

    With a `false_trigger_rate` biases are chosen for it on the held-out queries; the lesson's call bias
    then belongs into cluster.yaml. `l2` None is the default of the fit.

    Raises:
        ConfigError: nothing to learn, unusable data, or a token that has no file of its own.
        ExpertsError: a model cannot be loaded or used.
    """
    _require_files(config)
    labelled = labelled_queries(options, checkpoints(config), progress)
    try:
        require_labels(labelled.queries, config.experts)
    except DataError as error:
        raise in_data(options.data, error) from error
    states, folder = cached_states(config, labelled.queries, options, progress)
    try:
        lesson = learn_tokens(
            states,
            labelled.queries,
            l2=DEFAULT_L2 if l2 is None else l2,
            held_out_share=options.held_out_share,
            false_trigger_rate=false_trigger_rate,
            device=default_device(),
            progress=progress,
        )
    except DataError as error:
        raise in_data(options.data, error) from error
    save_tokens({Path(config.experts[token.name].token): token for token in lesson.tokens})
    return Learned(lesson, labelled, folder)


def save_tokens(files: Mapping[Path, ExpertToken]) -> None:
    """All of them or, where one cannot be written, none. Raises ConfigError."""
    # Most of what can go wrong goes wrong here, before the first of the old tokens is replaced.
    unfinished: dict[Path, Path] = {}
    for path, token in files.items():
        unfinished[path] = path.with_name(f".{path.name}.{os.getpid()}.new")
        try:
            token.save(unfinished[path])
        except OSError as error:
            for other in unfinished.values():
                with suppress(OSError):
                    other.unlink()
            raise ConfigError(
                [f"{path}: the token of '{token.name}' cannot be written: {error.strerror}; correct the path"]
            ) from error
    for path, ready in unfinished.items():
        ready.replace(path)


def _require_files(config: ClusterConfig) -> None:
    if not config.experts:
        raise ConfigError([f"{config.source}: experts: none to learn a token for; add one"])
    owners: dict[str, str] = {}
    for name, expert in sorted(config.experts.items()):
        field = f"{config.source}: experts.{name}.token"
        if "://" in expert.token:
            raise ConfigError([f"{field}: cannot be written to a URI; name a file here"])
        if Path(expert.token).is_dir():
            raise ConfigError([f"{field}: '{expert.token}' is a folder; name a file in it"])
        owner = owners.setdefault(expert.token, name)
        if owner != name:
            raise ConfigError([f"{field}: is the file of expert '{owner}' too; name another"])
