"""Evaluate a cluster.yaml on a query set: its tokens, honest baselines and, if it runs, its answers.

Imports torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from cluster.checkpoints import checkpoint_of
from cluster.config import ClusterConfig
from cluster.errors import ConfigError
from cluster.replies import DEFAULT_CONCURRENCY, Reply, ask_models
from cluster.tokens import load_tokens
from experts.errors import DataError, ExpertsFault
from experts.evaluate.evaluation import Evaluation, evaluate_methods, require_known
from experts.evaluate.marks import META, Answers, scored_indices
from experts.evaluate.prompted import judge_prompted
from experts.evaluate.report import write_report
from experts.learn.queries import Query, dataset_digest
from experts.learn.route import Judgement
from experts.learn.shards import cache_states
from experts.learn.states import Progress, States


def evaluate(
    config: ClusterConfig,
    queries: Sequence[Query],
    *,
    train: Sequence[Query] | None = None,
    url: str | None = None,
    folder: Path,
    cache: Path,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Progress = lambda done, total, what: None,
) -> Evaluation:
    """Measures how `queries` are routed and answered; writes evaluation.json, .md and pictures to `folder`.

    `train`: what the tokens were learned from; without it, the baselines that learn are left out. `url`:
    of the running cluster; without it, answers are. `cache`: where the meta's states are kept, a folder for
    each query set. Not to be called from an event loop.

    Raises:
        ConfigError: no experts, unusable tokens, or a folder that cannot be written.
        DataError: a query has no label, or that of an expert unknown to the config; one does not fit the
            meta; or the cached states are another meta's.
        ModelLoadError, TemplateError: the meta cannot be used.
        AskError: a query got no answer.
        ExpertsFault: the packages of the extra `eval` are missing.
    """
    _require_packages()
    if not config.experts:
        raise ConfigError([f"{config.source}: experts: none to evaluate; add one"])
    for known in (queries, train or ()):
        require_known(known, sorted(config.experts))
    tokens = list(load_tokens(config).values())
    with _writing(folder):  # what cannot be written at the end is said at the beginning
        folder.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    states = _states(config, queries, cache, progress)
    # Before the baselines, which take longest: a cluster that does not answer is known sooner.
    answers = asyncio.run(_answers(config, url, queries, concurrency, notes, progress))
    evaluation = evaluate_methods(
        queries,
        states,
        tokens,
        call_bias=config.routing.call_bias,
        only_at_start=config.routing.when == "start",
        baselines=_baselines(config, queries, states, train, cache, notes, progress),
        answers=answers,
        notes=notes,
    )
    _write(evaluation, folder)
    return evaluation


def served_judgement(query: Query, reply: Reply) -> Judgement:
    """The first hand-over of a served answer; early where the meta had written less than it should have."""
    # By the models called, not by the spans: an expert that wrote nothing has none.
    routed = next((writer for writer in reply.writers if writer != META), None)
    before = "".join(text for _, text in takewhile(lambda span: span[0] == META, reply.spans))
    early = routed is not None and len(before.rstrip()) < len(query.written.rstrip())
    return Judgement(query.expert, routed, early)


def _require_packages() -> None:
    missing = [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ExpertsFault(
            f"evaluation needs {' and '.join(missing)}; run `pip install 'expert-token-routing[eval]'`"
        )


def _states(config: ClusterConfig, queries: Sequence[Query], cache: Path, progress: Progress) -> States:
    with _writing(cache):
        folder = cache / dataset_digest(queries)
        return cache_states(checkpoint_of(config.meta), queries, folder, progress=progress)


def _baselines(
    config: ClusterConfig,
    queries: Sequence[Query],
    states: States,
    train: Sequence[Query] | None,
    cache: Path,
    notes: list[str],
    progress: Progress,
) -> dict[str, list[Judgement]]:
    """Those that learn, by name; `notes` gets what was left out."""
    if train is None:
        notes.append("no training queries were given, so the baselines that learn from them are left out")
        return {}
    # Here, as with the pictures: other commands work without the packages that these two need.
    from experts.evaluate.baselines import judge_baselines

    at_start = config.routing.when == "start"
    judged = judge_baselines(_states(config, train, cache, progress), states, only_at_start=at_start)
    model, renderer = checkpoint_of(config.meta).load()
    try:
        judged["prompted meta"] = judge_prompted(
            model, renderer, queries, expert_names=sorted(config.experts), train=train, progress=progress
        )
    except DataError as error:  # its prompts are longer than the queries, which fit
        notes.append(f"the prompted meta is left out: {error}")
    return judged


async def _answers(
    config: ClusterConfig,
    url: str | None,
    queries: Sequence[Query],
    concurrency: int,
    notes: list[str],
    progress: Progress,
) -> Answers | None:
    if url is None:
        notes.append("the cluster was not asked, so there are no answers to judge")
        return None
    scored = scored_indices(queries)
    if not scored:
        notes.append("no query has a right answer, so there are no answers to judge")
    # The generalist is asked everything: its hand-overs can be judged without a right answer.
    served = (await ask_models(url, [config.name], queries, concurrency, progress))[config.name]
    ids = {name: f"{config.name}/{name}" for name in (META, *sorted(config.experts))}
    asked = [queries[index] for index in scored]
    alone = await ask_models(url, list(ids.values()), asked, concurrency, progress)
    return Answers(
        alone={name: [reply.text for reply in alone[model]] for name, model in ids.items()},
        served=[served[index].text for index in scored],
        served_judgements=[
            served_judgement(query, reply) for query, reply in zip(queries, served, strict=True)
        ],
    )


def _write(evaluation: Evaluation, folder: Path) -> None:
    from experts.evaluate.pictures import write_pictures

    with _writing(folder):
        write_report(evaluation, folder)
        write_pictures(evaluation, folder)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        raise ConfigError([f"{path}: cannot be written: {error.strerror}; name another folder"]) from error
