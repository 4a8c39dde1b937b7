"""`etr experts add`, `etr experts remove`: change which experts the file and the running cluster have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.cli import options as option
from cluster.cli.change import apply_edit
from cluster.cli.command import DEFAULT_CONFIG, command_of, err, info, out, warn
from cluster.cli.option_groups import grouped
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.config_editor import remove_expert
from cluster.learning.new_expert import ExpertSource, NewExpert
from cluster.learning.options import ExpertQueries

if TYPE_CHECKING:  # imports torch
    from cluster.learning.add_expert import AdditionTrial

app = typer.Typer(no_args_is_help=True, help="Add an expert to a cluster, or remove one.")
command = command_of(app)


@command
@grouped(queries=option.expert_queries, source=option.expert_source, learning=option.learning)
def add(
    *,
    name: option.ExpertName,
    queries: ExpertQueries,
    source: ExpertSource,
    config: option.ConfigOption = DEFAULT_CONFIG,
    token: option.TokenFile = None,
    learning: option.LearnFrom,
    tolerance: option.Tolerance = 0.005,
    dry_run: option.DryRun = False,
    report: option.LearningReport = None,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Learn a token for a new expert and add the expert. The tokens of the other experts do not change."""
    new = NewExpert.described(config, name, source, token)
    loaded = load_config(config)
    trial = _judged_trial(loaded, new, queries, learning, report, dry_run=dry_run)
    trial.require_harmless(tolerance)
    if dry_run:
        info(f"dry run: '{name}' would be added; neither {new.token} nor {config} was written")
        return
    _write(loaded, trial)
    apply_edit(config, address, no_apply=no_apply)


@command
def remove(
    name: option.ExpertName,
    config: option.ConfigOption = DEFAULT_CONFIG,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Remove an expert. It gets no new calls, finishes its answers, and then stops."""
    remove_expert(config, name)
    info(f"'{name}' is removed from {config}; the files of its model and token are kept")
    apply_edit(config, address, no_apply=no_apply)


def _judged_trial(
    config: ClusterConfig,
    new: NewExpert,
    queries: ExpertQueries,
    learning: option.LearnFrom,
    report: Path | None,
    *,
    dry_run: bool,
) -> AdditionTrial:
    """Learn the token, and show how it changes the routing."""
    from cluster.cli import print_learning
    from cluster.learning.add_expert import try_expert
    from cluster.learning.report_file import write_trial

    with print_learning.stages(err) as progress:
        trial = try_expert(config, new, queries, learning, save=not dry_run, progress=progress, warn=warn)
    # Printed before the refusal, because its reason is in the figures.
    print_learning.labels(out, trial.labelled)
    print_learning.trial(out, trial)
    if report is not None:
        write_trial(report, trial)
    for expert in trial.unchecked:
        warn(f"no held-out query is for expert '{expert}', so what it loses to '{new.name}' is not checked")
    return trial


def _write(config: ClusterConfig, trial: AdditionTrial) -> None:
    from cluster.learning.add_expert import write_expert

    write_expert(config, trial)
    info(f"'{trial.new.name}' is added to {config.source}, with its token in {trial.new.token}")
