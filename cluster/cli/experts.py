"""`etr experts add`, `etr experts remove`: change which experts the file and the running cluster have."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.cli import options as option
from cluster.cli.change import apply_edit
from cluster.cli.command import DEFAULT_CONFIG, command_of, err, info, out, warn
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.config_editor import remove_expert
from cluster.learning.new_expert import NewExpert
from cluster.learning.options import BATCH_SIZE, HELD_OUT_SHARE, MARGIN, MID_ANSWER, LearnOptions

if TYPE_CHECKING:  # imports torch
    from cluster.learning.add_expert import AdditionTrial

app = typer.Typer(no_args_is_help=True, help="Add an expert to a cluster, or remove one.")
command = command_of(app)


@command
def add(
    name: option.ExpertName,
    data: option.Data,
    model: option.Model = None,
    hub: option.Hub = None,
    revision: option.Revision = None,
    adapter: option.Adapter = None,
    pool: option.Pool = None,
    config: option.ConfigOption = DEFAULT_CONFIG,
    token: option.TokenFile = None,
    num_gpus: option.NumGpus = None,
    num_cpus: option.NumCpus = None,
    tolerance: option.Tolerance = 0.005,
    assigned: option.Assigned = None,
    margin: option.Margin = MARGIN,
    states: option.StatesFolder = None,
    held_out: option.HeldOut = HELD_OUT_SHARE,
    batch_size: option.BatchSize = BATCH_SIZE,
    ray: option.Ray = None,
    skip_broken: option.SkipBroken = False,
    mid_answer: option.MidAnswer = MID_ANSWER,
    dry_run: option.DryRun = False,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Learn a token for a new expert and add the expert. The tokens of the other experts do not change."""
    kind, source = _source(model, hub, revision, adapter, pool)
    resources = _resources(kind, num_gpus=num_gpus, num_cpus=num_cpus)
    new = NewExpert.described(config, name, kind, source, token=token, resources=resources)
    options = LearnOptions(data, assigned, margin, states, held_out, batch_size, ray, skip_broken, mid_answer)
    trial = _judged_trial(loaded := load_config(config), new, options, tolerance, dry_run=dry_run)
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


def _source(
    model: Path | None, hub: str | None, revision: str | None, adapter: Path | None, pool: str | None
) -> tuple[str, dict[str, str]]:
    """What the expert runs: the key of that block in cluster.yaml, and its content."""
    if [model, hub, adapter].count(None) != 2:
        raise typer.BadParameter("give exactly one of --model, --hub and --adapter")
    if revision is not None and hub is None:
        raise typer.BadParameter("--revision has no effect without --hub; remove it")
    if (adapter is None) != (pool is None):
        raise typer.BadParameter("--adapter and --pool need each other; add the other one")
    if adapter is not None and pool is not None:
        return "adapter", {"path": str(adapter), "pool": pool}
    if hub is None:
        return "model", {"path": str(model)}
    return "model", {"hub": hub} | ({"revision": revision} if revision else {})


def _resources(kind: str, **amounts: float | None) -> dict[str, float]:
    resources = {key: amount for key, amount in amounts.items() if amount is not None}
    if resources and kind == "adapter":
        raise typer.BadParameter("an adapter uses the replicas of its pool; remove --num-gpus and --num-cpus")
    return resources


def _judged_trial(
    config: ClusterConfig, new: NewExpert, options: LearnOptions, tolerance: float, *, dry_run: bool
) -> AdditionTrial:
    """Learn the token and print how it changes the routing. Raises ExpertRefused if it harms an expert."""
    from cluster.cli import print_learning
    from cluster.learning.add_expert import try_expert

    save = not dry_run or options.assigned is not None
    with print_learning.stages(err) as progress:
        trial = try_expert(config, new, options, save=save, progress=progress, warn=warn)
    # Printed before the refusal, because its reason is in the figures.
    print_learning.labels(out, trial.labelled)
    print_learning.trial(out, trial)
    for expert in trial.unchecked:
        warn(f"no held-out query is for expert '{expert}', so what it loses to '{new.name}' is not checked")
    trial.require_harmless(tolerance)
    return trial


def _write(config: ClusterConfig, trial: AdditionTrial) -> None:
    from cluster.learning.add_expert import write_expert

    write_expert(config, trial)
    info(f"'{trial.new.name}' is added to {config.source}, with its token in {trial.new.token}")
