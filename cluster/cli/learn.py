"""`etr learn`, `etr eval`: learn expert tokens, and judge how well they route.

Torch is imported only when a command runs, because `etr --help` imports this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from cluster.cli import options as option
from cluster.cli.command import DEFAULT_CONFIG, ConfigPath, command_of, err, info, out, warn
from cluster.cli.option_groups import grouped
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.config.config_editor import set_value
from cluster.learning import options as learn_options
from cluster.learning.options import LearnOptions
from cluster.serve.connect import local_url

if TYPE_CHECKING:  # imports torch
    from experts.learn import Query

app = typer.Typer()
command = command_of(app)


@command
@grouped(learning=option.learning)
def learn(
    *,
    data: option.Data,
    config: ConfigPath = DEFAULT_CONFIG,
    learning: option.LearnFrom,
    l2: option.L2 = None,
    false_trigger_rate: option.FalseTriggerRate = None,
    write: option.Write = False,
    report: option.LearningReport = None,
) -> None:
    """Learn the token of every expert, and write the files that the config names."""
    if write and false_trigger_rate is None:
        raise typer.BadParameter("--write has no effect without --false-trigger-rate; add it")
    from cluster.cli import print_learning
    from cluster.learning.learn import learn_all
    from cluster.learning.report_file import write_fit

    loaded = load_config(config, tokens_required=False)
    with print_learning.stages(err) as progress:
        result = learn_all(
            loaded, learning(data), l2=l2, false_trigger_rate=false_trigger_rate, progress=progress, warn=warn
        )
    print_learning.labels(out, result.labelled)
    print_learning.learned(out, result)
    if report is not None:
        write_fit(report, result.report)
    _report_call_bias(loaded, result.report.call_bias, chosen=false_trigger_rate is not None, write=write)


@command
def learn_stop(
    *,
    data: option.JudgedAnswers,
    config: ConfigPath = DEFAULT_CONFIG,
    states: option.StatesFolder = None,
    held_out: option.HeldOut = learn_options.HELD_OUT_SHARE,
    l2: option.L2 = None,
    skip_broken: option.SkipBroken = False,
) -> None:
    """Learn the token that ends a chain, "good enough", and write the file that the config names."""
    from cluster.cli import print_learning
    from cluster.learning.learn import learn_stop as learn_from

    loaded = load_config(config, tokens_required=False)
    options = LearnOptions(data, states=states, held_out_share=held_out, skip_broken=skip_broken)
    with print_learning.stages(err) as progress:
        report = learn_from(loaded, options, l2=l2, progress=progress, warn=warn)
    print_learning.stop(out, report)
    info(f"the token is in {loaded.routing.chain.stop_token}; put it into effect with: etr apply {config}")


@command
def eval_(
    data: option.Data,
    config: ConfigPath = DEFAULT_CONFIG,
    train: option.Train = None,
    url: option.Url = None,
    methods: option.Methods = None,
    folder: option.ReportFolder = Path("evaluation"),
    routes_only: option.RoutesOnly = False,
    skip_broken: option.SkipBroken = False,
) -> None:
    """Judge how the tokens route and how the running cluster answers, and compare with baselines."""
    if routes_only and url:
        raise typer.BadParameter("--url has no effect with --routes-only; remove one")
    from cluster.cli import print_learning
    from cluster.learning.evaluate import evaluate
    from cluster.learning.state_cache import meta_folder
    from experts.evaluate.methods import known_methods

    wanted = None if methods is None else known_methods(methods.split(","))
    loaded = load_config(config)
    queries = _labelled_queries(loaded, data, skip_broken)
    learned_from = _labelled_queries(loaded, train, skip_broken) if train else None
    with print_learning.stages(err) as progress:
        evaluation = evaluate(
            loaded,
            queries,
            train=learned_from,
            url=None if routes_only else url or local_url(),
            methods=wanted,
            folder=folder,
            cache=meta_folder(loaded),
            progress=progress,
        )
    print_learning.evaluation(out, evaluation)
    info(f"evaluation.json, evaluation.md and the pictures are in {folder}")


def _labelled_queries(config: ClusterConfig, data: Path, skip_broken: bool) -> list[Query]:
    from cluster.learning.checkpoints import checkpoint_of
    from cluster.learning.query_sets import usable_queries

    return usable_queries(
        data,
        checkpoint_of(config.meta),
        config.experts,
        all_labelled=True,
        skip_broken=skip_broken,
        warn=warn,
    )


def _report_call_bias(config: ClusterConfig, call_bias: float, *, chosen: bool, write: bool) -> None:
    """The biases in the tokens were chosen for one value of `routing.call_bias`, which is in the config."""
    current = config.routing.call_bias
    if not chosen and current:
        warn(f"these scores do not include routing.call_bias, which is {current:g} in {config.source}")
    if not chosen or call_bias == current:
        return
    if write:
        set_value(config.source, ("routing", "call_bias"), call_bias)
        info(
            f"routing.call_bias is now {call_bias:g} in {config.source}; put it into effect with: etr apply "
            f"{config.source}"
        )
    else:
        warn(f"for this rate, add to {config.source}: routing: {{call_bias: {call_bias!r}}}")
