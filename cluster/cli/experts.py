"""`etr experts add`, `etr experts remove`: change which experts the file and the running cluster have."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cluster.cli import options as option
from cluster.cli.change import apply_edit
from cluster.cli.command import DEFAULT_CONFIG, command_of, err, info, out, warn
from cluster.cli.option_groups import grouped
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.config_editor import remove_expert
from cluster.learning.new_expert import ExpertSource, NewExpert
from cluster.learning.options import ExpertQueries
from router.table import META

if TYPE_CHECKING:  # imports torch
    from cluster.learning.add_expert import AdditionTrial

Model = Annotated[Path | None, typer.Option(help="Folder of its checkpoint.")]
Hub = Annotated[str | None, typer.Option(help="Its id on the Hugging Face hub, instead of --model.")]
Revision = Annotated[str | None, typer.Option(help="Branch, tag or commit of the model on the hub.")]
Adapter = Annotated[Path | None, typer.Option(help="Folder of its LoRA adapter, instead of --model.")]
Pool = Annotated[str | None, typer.Option(help="The pool whose model the adapter is for.")]
Approximate = Annotated[
    bool, typer.Option("--approximate", help="With --pool meta: the adapter is an ordinary LoRA.")
]
NumGpus = Annotated[float | None, typer.Option(min=0, help="GPUs that one replica reserves.")]
NumCpus = Annotated[float | None, typer.Option(min=0, help="CPUs that one replica reserves.")]

app = typer.Typer(no_args_is_help=True, help="Add an expert to a cluster, or remove one.")
command = command_of(app)


def expert_source(
    model: Model = None,
    hub: Hub = None,
    revision: Revision = None,
    adapter: Adapter = None,
    pool: Pool = None,
    approximate: Approximate = False,
    num_gpus: NumGpus = None,
    num_cpus: NumCpus = None,
) -> ExpertSource:
    """The group of options that say what a new expert runs."""
    kind, where = _source(model, hub, revision, adapter, pool)
    if approximate:
        where |= _approximate(pool)
    return ExpertSource(kind, where, _resources(kind, num_gpus=num_gpus, num_cpus=num_cpus))


@command
@grouped(queries=option.expert_queries, source=expert_source, learning=option.learning)
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
    url = apply_edit(config, address, no_apply=no_apply)
    if url and source.is_approximate:
        _check_in_place(url, loaded.name, trial)


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


def _check_in_place(url: str, cluster: str, trial: AdditionTrial) -> None:
    from cluster.client.in_place_check import check_in_place

    with err.status("comparing answers in place with the adapter's own"):
        check = asyncio.run(check_in_place(url, cluster, trial.new.name, trial.labelled.queries))
    if not check.equal_parts:
        warn(f"the meta handed over none of {check.num_asked} queries at the start; nothing was compared")
        return
    num, what = len(check.equal_parts), "that the adapter writes when it reads the whole prompt"
    info(
        f"in place, '{check.expert}' gives {check.num_equal} of {num} answers {what}; on average "
        f"{check.mean_part:.0%} of an answer is the same"
    )
    if check.num_equal < num:
        info(
            "to serve it exactly: train it with PEFT's alora_invocation_tokens, or give it a pool of its own"
        )


def _source(
    model: Path | None, hub: str | None, revision: str | None, adapter: Path | None, pool: str | None
) -> tuple[str, dict[str, str]]:
    """The key of the block in cluster.yaml, and its content."""
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


def _approximate(pool: str | None) -> dict[str, str]:
    if pool != META:
        raise typer.BadParameter("--approximate has an effect only with --pool meta; remove it")
    return {"invocation": "approximate"}


def _resources(kind: str, **amounts: float | None) -> dict[str, float]:
    resources = {key: amount for key, amount in amounts.items() if amount is not None}
    if resources and kind == "adapter":
        raise typer.BadParameter("an adapter uses the replicas of its pool; remove --num-gpus and --num-cpus")
    return resources
