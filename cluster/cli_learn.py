"""`etr learn`, `etr eval`: tokens, and how well they route.

Torch is imported when one of them runs: `etr --help` reads this file too.
"""

from __future__ import annotations

from pathlib import Path

import typer

from cluster import cli_options as option
from cluster.cli_command import DEFAULT_CONFIG, ConfigPath, command_of, err, out, say, warn
from cluster.config import ClusterConfig, load_config
from cluster.learn_options import BATCH_SIZE, HELD_OUT_SHARE, MARGIN, LearnOptions
from cluster.target import local_url
from cluster.yaml_edit import set_value

app = typer.Typer()
command = command_of(app)


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
    say(f"evaluation.json, evaluation.md and pictures are in {folder}")


def _tell_call_bias(config: ClusterConfig, call_bias: float, *, chosen: bool, write: bool) -> None:
    """Biases were chosen together with one for all, which is a setting of the cluster, not of a token."""
    present = config.routing.call_bias
    if not chosen and present:
        warn(f"these scores are without routing.call_bias, which is {present:g} in {config.source}")
    if not chosen or call_bias == present:
        return
    if write:
        set_value(config.source, ("routing", "call_bias"), call_bias)
        say(f"routing.call_bias is now {call_bias:g} in {config.source}; serve it with: etr apply")
    else:
        warn(f"the rate holds with this line in {config.source}: routing: {{call_bias: {call_bias!r}}}")
