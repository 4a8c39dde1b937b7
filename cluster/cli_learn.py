"""`etr learn`, `etr experts add`, `etr eval`: tokens, and how well they route.

Torch is imported when one of them runs: `etr --help` reads this file too.
"""

from __future__ import annotations

from pathlib import Path

import typer

from cluster import cli_options as option
from cluster.cli_command import DEFAULT_CONFIG, ConfigPath, command_of, err, out
from cluster.config import ClusterConfig, load_config
from cluster.learn_options import BATCH_SIZE, HELD_OUT_SHARE, MARGIN, LearnOptions
from cluster.new_expert import NewExpert
from cluster.target import local_url
from cluster.yaml_edit import set_value

app = typer.Typer()
experts = typer.Typer(no_args_is_help=True, help="Add an expert to a cluster.")
command, experts_command = command_of(app), command_of(experts)


@command
def learn(
    data: option.Data,
    config: ConfigPath = DEFAULT_CONFIG,
    assigned: option.Assigned = None,
    margin: option.Margin = MARGIN,
    states: option.StatesFolder = None,
    held_out: option.HeldOut = HELD_OUT_SHARE,
    l2: option.L2 = None,
    false_trigger_rate: option.FalseTriggerRate = None,
    write: option.Write = False,
    batch_size: option.BatchSize = BATCH_SIZE,
    ray: option.Ray = None,
) -> None:
    """Learn every expert's token, and write the files that the config names."""
    if write and false_trigger_rate is None:
        raise typer.BadParameter("--write has no effect without --false-trigger-rate; add it")
    from cluster import show_learning
    from cluster.learn import learn_all

    loaded = load_config(config, tokens_required=False)
    options = LearnOptions(data, assigned, margin, states, held_out, batch_size, ray)
    with show_learning.stages(err) as progress:
        result = learn_all(loaded, options, l2=l2, false_trigger_rate=false_trigger_rate, progress=progress)
    show_learning.labels(out, result.labelled)
    show_learning.learned(out, result)
    _tell_call_bias(loaded, result.lesson.call_bias, chosen=false_trigger_rate is not None, write=write)


@experts_command
def add(
    name: option.Name,
    data: option.Data,
    model: option.Model = None,
    hub: option.Hub = None,
    revision: option.Revision = None,
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
) -> None:
    """Learn a new expert's token beside those that are there, which stay as they are, and add it."""
    reserved = {"num_gpus": num_gpus, "num_cpus": num_cpus}
    resources = {key: amount for key, amount in reserved.items() if amount is not None}
    new = NewExpert.described(config, name, _source(model, hub, revision), token=token, resources=resources)
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
        _warn(f"no held-out query is for expert '{incumbent}': what it loses to '{name}' is not checked")
    trial.require_harmless(tolerance)
    if dry_run:
        _say(f"dry run: '{name}' would be added; neither {new.token} nor {config} was written")
        return
    write_expert(loaded, trial)
    _say(f"'{name}' is in {config}, its token in {new.token}; serve it with: etr apply {config}")


@command
def eval_(
    data: option.Data,
    config: ConfigPath = DEFAULT_CONFIG,
    train: option.Train = None,
    url: option.Url = None,
    folder: option.ReportFolder = Path("evaluation"),
    routes_only: option.RoutesOnly = False,
) -> None:
    """Judge how the tokens route, and how the running cluster answers, beside honest baselines."""
    if routes_only and url:
        raise typer.BadParameter("--url has no effect with --routes-only; remove one")
    from cluster import show_learning
    from cluster.evaluate import evaluate
    from cluster.labels import known_queries
    from cluster.state_cache import meta_folder

    loaded = load_config(config)
    queries = known_queries(data, loaded.experts)
    learned_from = known_queries(train, loaded.experts) if train else None
    with show_learning.stages(err) as progress:
        evaluation = evaluate(
            loaded,
            queries,
            train=learned_from,
            url=None if routes_only else url or local_url(),
            folder=folder,
            cache=meta_folder(loaded),
            progress=progress,
        )
    show_learning.evaluation(out, evaluation)
    _say(f"evaluation.json, evaluation.md and pictures are in {folder}")


def _source(model: Path | None, hub: str | None, revision: str | None) -> dict[str, str]:
    if (model is None) == (hub is None):
        raise typer.BadParameter("give exactly one of --model and --hub")
    if hub is None:
        if revision is not None:
            raise typer.BadParameter("--revision has no effect with --model; remove it")
        return {"path": str(model)}
    return {"hub": hub} | ({"revision": revision} if revision else {})


def _tell_call_bias(config: ClusterConfig, call_bias: float, *, chosen: bool, write: bool) -> None:
    """Biases were chosen together with one for all, which is a setting of the cluster, not of a token."""
    present = config.routing.call_bias
    if not chosen and present:
        _warn(f"these scores are without routing.call_bias, which is {present:g} in {config.source}")
    if not chosen or call_bias == present:
        return
    if write:
        set_value(config.source, ("routing", "call_bias"), call_bias)
        _say(f"routing.call_bias is now {call_bias:g} in {config.source}; serve it with: etr apply")
    else:
        _warn(f"the rate holds with this line in {config.source}: routing: {{call_bias: {call_bias!r}}}")


def _warn(text: str) -> None:
    err.print(f"warning: {text}", markup=False)


def _say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)
