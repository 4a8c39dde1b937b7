"""Learns the token of every expert in a cluster.yaml, and writes the files that it names. Imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.config.expert_tokens import load_tokens
from cluster.errors import ConfigError
from cluster.learning.checkpoints import KeptCheckpoint, checkpoint_of, checkpoints, default_device
from cluster.learning.labels import LabelledSet, labelled_queries
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import Warn, data_errors_named, judged_answers
from cluster.learning.state_cache import cached_states
from cluster.learning.training_set import TrainingSet, training_set
from experts.evaluate.false_handovers import GeneralKind, general_kinds
from experts.files import stage_file
from experts.learn.fit import DEFAULT_L2
from experts.learn.hidden_states import Progress
from experts.learn.learn import FitReport, learn_tokens, require_labels
from experts.token import ExpertToken


@dataclass(frozen=True)
class Learned:
    """`kinds`: of the queries that the report judges."""

    report: FitReport
    labelled: LabelledSet
    training: TrainingSet
    kinds: list[GeneralKind | None]


def learn_all(
    config: ClusterConfig,
    options: LearnOptions,
    *,
    l2: float | None = None,
    false_trigger_rate: float | None = None,
    progress: Progress,
    warn: Warn,
) -> Learned:
    """Learns all tokens from scratch; none is written unless all succeed.

    With a `false_trigger_rate`, biases are chosen for it on the held-out queries; the report's call bias must
    then go into cluster.yaml. `l2` None is the default of the fit. `warn`: see `read_queries`.

    Raises:
        ConfigError: there is nothing to learn, the data is unusable, or a token has no file of its own.
        ExpertsError: a model cannot be loaded or used.
    """
    _require_token_files(config)
    labelled = _labelled(config, options, progress, warn)
    training = training_set(config, labelled.queries, options, progress, warn)
    with data_errors_named(options.data):
        report = learn_tokens(
            training.states,
            training.queries,
            l2=DEFAULT_L2 if l2 is None else l2,
            held_out_share=options.held_out_share,
            false_trigger_rate=false_trigger_rate,
            device=default_device(),
            progress=progress,
        )
    save_tokens({Path(config.entries[token.name].token): token for token in report.tokens})
    kinds = general_kinds(training.queries, training.states)
    return Learned(report, labelled, training, [kinds[index] for index in report.judged])


def learn_stop(
    config: ClusterConfig, options: LearnOptions, *, l2: float | None = None, progress: Progress, warn: Warn
) -> FitReport:
    """Learns the token that ends a chain, beside those of the experts, and writes its file.

    `options`: only those about the data, the states and what is held out count.

    Raises:
        ConfigError: cluster.yaml names no file for it, or the data or an expert's token is unusable.
        ExpertsError: the meta cannot be loaded or used.
    """
    path, field = config.routing.chain.stop_token, f"{config.source}: routing.chain.stop_token"
    if path is None or "://" in path:
        raise ConfigError([f"{field}: names no file to write the token to; add one"])
    meta = KeptCheckpoint.of(checkpoint_of(config.meta))
    rules, skip_broken = config.routing.chain, options.skip_broken
    queries = judged_answers(options.data, meta, rules, skip_broken=skip_broken, warn=warn)
    incumbents = list(load_tokens(config).values())
    states, _ = cached_states(config, meta, queries, options, progress)
    with data_errors_named(options.data):
        report = learn_tokens(
            states,
            queries,
            incumbents=incumbents,
            l2=DEFAULT_L2 if l2 is None else l2,
            held_out_share=options.held_out_share,
            device=default_device(),
            progress=progress,
        )
    save_tokens({Path(path): token for token in report.tokens})
    return report


def save_tokens(files: Mapping[Path, ExpertToken]) -> None:
    """Writes all tokens or, if one cannot be written, none. Raises ConfigError."""
    with ExitStack() as cleanup:
        staged: dict[Path, Path] = {}
        for path, token in files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                staged[path] = stage_file(path, token.to_bytes())
            except OSError as error:
                raise ConfigError(
                    [f"{path}: cannot write the token of '{token.name}': {error.strerror}; correct the path"]
                ) from error
            cleanup.callback(staged[path].unlink, missing_ok=True)
        # Nearly everything that can fail has been done by now, before the first old token is replaced.
        for path, ready in staged.items():
            ready.replace(path)


def _labelled(config: ClusterConfig, options: LearnOptions, progress: Progress, warn: Warn) -> LabelledSet:
    """The queries, which name every expert. Raises ConfigError, ExpertsError."""
    labelled = labelled_queries(options, checkpoints(config), config.experts, progress, warn=warn)
    with data_errors_named(options.data):
        require_labels(labelled.queries, config.experts)
    return labelled


def _require_token_files(config: ClusterConfig) -> None:
    """Raises ConfigError unless every expert has a local token file of its own."""
    if not config.experts:
        raise ConfigError([f"{config.source}: experts: none to learn a token for; add one"])
    owners: dict[str, str] = {}
    for name, expert in sorted(config.experts.items()):
        field = f"{config.source}: experts.{name}.token"
        if "://" in expert.token:
            raise ConfigError([f"{field}: cannot be written to a URI; name a local file"])
        if Path(expert.token).is_dir():
            raise ConfigError([f"{field}: '{expert.token}' is a folder; name a file in it"])
        owner = owners.setdefault(expert.token, name)
        if owner != name:
            raise ConfigError([f"{field}: is the file of expert '{owner}' too; name another file"])
