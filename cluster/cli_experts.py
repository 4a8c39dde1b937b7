"""`etr experts add`, `etr experts remove`: in the file, and in the cluster while it serves."""

from __future__ import annotations

from pathlib import Path

import typer

from cluster import cli_options as option
from cluster.cli_change import serve_change
from cluster.cli_command import DEFAULT_CONFIG, command_of, err, out, say, warn
from cluster.config import load_config
from cluster.learn_options import BATCH_SIZE, HELD_OUT_SHARE, MARGIN, LearnOptions
from cluster.new_expert import NewExpert
from cluster.yaml_edit import remove_expert

app = typer.Typer(no_args_is_help=True, help="Add an expert to a cluster, or take one out.")
command = command_of(app)


@command
def add(
    name: option.Name,
    data: option.Data,
    model: option.Model = None,
    hub: option.Hub = None,
    revision: option.Revision = None,
    adapter: option.Adapter = None,
    pool: option.Pool = None,
    config: option.ConfigOption = DEFAULT_CONFIG,
    token: option.TokenFile = None,
    num_gpus: option.Amount = None,
    num_cpus: option.Amount = None,
    tolerance: option.Tolerance = 0.005,
    assigned: option.Assigned = None,
    margin: option.Margin = MARGIN,
    states: option.StatesFolder = None,
    held_out: option.HeldOut = HELD_OUT_SHARE,
    batch_size: option.BatchSize = BATCH_SIZE,
    ray: option.Ray = None,
    dry_run: option.DryRun = False,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Learn a new expert's token beside those that are there, which stay as they are, and add it."""
    reserved = {"num_gpus": num_gpus, "num_cpus": num_cpus}
    resources = {key: amount for key, amount in reserved.items() if amount is not None}
    kind, where = _kind(model, hub, revision, adapter, pool)
    if resources and kind == "adapter":
        raise typer.BadParameter("an adapter has the replicas of its pool; remove --num-gpus and --num-cpus")
    new = NewExpert.described(config, name, kind, where, token=token, resources=resources)
    from cluster import show_learning
    from cluster.experts import try_expert, write_expert

    loaded = load_config(config)
    options = LearnOptions(data, assigned, margin, states, held_out, batch_size, ray)
    with show_learning.stages(err) as progress:
        trial = try_expert(loaded, new, options, save=not dry_run or assigned is not None, progress=progress)
    # Whoever is refused needs to see the figures too.
    show_learning.labels(out, trial.labelled)
    show_learning.trial(out, trial)
    for incumbent in trial.unchecked:
        warn(f"no held-out query is for expert '{incumbent}': what it loses to '{name}' is not checked")
    trial.require_harmless(tolerance)
    if dry_run:
        say(f"dry run: '{name}' would be added; neither {new.token} nor {config} was written")
        return
    write_expert(loaded, trial)
    say(f"'{name}' is in {config}, its token in {new.token}")
    serve_change(config, address, no_apply=no_apply)


@command
def remove(
    name: option.Name,
    config: option.ConfigOption = DEFAULT_CONFIG,
    address: option.Address = None,
    no_apply: option.NoApply = False,
) -> None:
    """Take an expert out: nobody is handed to it any more, it finishes what it writes, then it stops."""
    remove_expert(config, name)
    say(f"'{name}' is no longer in {config}; the files of its model and token are still there")
    serve_change(config, address, no_apply=no_apply)


def _kind(
    model: Path | None, hub: str | None, revision: str | None, adapter: Path | None, pool: str | None
) -> tuple[str, dict[str, str]]:
    """The key of cluster.yaml by which the expert is one of its kind, and what stands below it."""
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
