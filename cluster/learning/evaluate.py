"""Evaluates a cluster.yaml on a query set: its tokens, baselines and, if it runs, its answers.

Imports torch.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from cluster.client.batch_chat import DEFAULT_CONCURRENCY, Reply, ask_models
from cluster.config.cluster_config import ClusterConfig
from cluster.config.expert_tokens import load_tokens
from cluster.errors import ConfigError
from cluster.learning.checkpoints import checkpoint_of
from cluster.learning.learned_set import as_learned
from experts.errors import DataError, ExpertsFault
from experts.evaluate.evaluation import Evaluation, evaluate_methods, require_known
from experts.evaluate.grading import META, Answers, scored_indices
from experts.evaluate.methods import DESCRIPTIONS, LEARNED, PROMPTED, SERVED
from experts.evaluate.prompted import judge_prompted
from experts.evaluate.report import write_report
from experts.learn.hidden_states import Progress, States
from experts.learn.queries import Query, dataset_digest
from experts.learn.routing_judge import Judgement
from experts.learn.shards import cache_states
from experts.token import ExpertToken


def evaluate(
    config: ClusterConfig,
    queries: Sequence[Query],
    *,
    train: Sequence[Query] | None = None,
    url: str | None = None,
    folder: Path,
    cache: Path,
    methods: Collection[str] | None = None,
    concurrency: int = DEFAULT_CONCURRENCY,
    progress: Progress = lambda done, total, what: None,
) -> Evaluation:
    """Measures how `queries` are routed and answered; writes evaluation.json, .md and pictures to `folder`.

    `train`: what the tokens were learned from; without it, learned baselines are left out. `url`: of the
    running cluster; without it, answers are left out. `cache`: folder for the meta's states, a subfolder per
    query set. `methods`: see `known_methods`; by default all that can run. Not for use on an event loop.

    Raises:
        ConfigError: no experts, unusable tokens, a folder that cannot be written, or a method that needs
            what is not given.
        DataError: a query has no label or an unknown one, or does not fit the meta; or the cached states
            are another meta's.
        ModelLoadError, TemplateError: the meta cannot be used.
        AskError: a query got no answer.
        ExpertsFault: the packages of the extra `eval` are missing.
    """
    _require_runnable(methods or (), train is not None, url is not None)
    tokens = _require_ready(config, queries, train)
    _make(folder)  # first, because the evaluation takes long
    run = _EvaluationRun(config, queries, train, methods or DESCRIPTIONS, cache, progress)
    evaluation = run.evaluate(tokens, url, concurrency)
    _write(evaluation, folder)
    return evaluation


def served_judgement(query: Query, reply: Reply) -> Judgement:
    """The first hand-over of a served answer. Early if the meta had written less than it should have."""
    # From the models called, not from the spans: an expert that wrote nothing has no span.
    routed = next((writer for writer in reply.writers if writer != META), None)
    before = "".join(text for _, text in takewhile(lambda span: span[0] == META, reply.spans))
    early = routed is not None and len(before.rstrip()) < len(query.written.rstrip())
    return Judgement(query.expert, routed, early)


@dataclass(frozen=True)
class _EvaluationRun:
    """`notes` collects what is left out, and why."""

    config: ClusterConfig
    queries: Sequence[Query]
    train: Sequence[Query] | None
    methods: Collection[str]
    cache: Path
    progress: Progress
    notes: list[str] = field(default_factory=list)

    def evaluate(self, tokens: Sequence[ExpertToken], url: str | None, concurrency: int) -> Evaluation:
        states = self._states(self.queries)
        # Before the baselines, which take longest: a cluster that does not answer is reported sooner.
        answers = asyncio.run(self._answers(url, concurrency))
        routing = self.config.routing
        return evaluate_methods(
            self.queries,
            states,
            tokens,
            call_bias=routing.call_bias,
            only_at_start=routing.when == "start",
            baselines=self._baselines(states, tokens),
            answers=answers,
            methods=self.methods,
            notes=self.notes,
        )

    def _states(self, queries: Sequence[Query]) -> States:
        with _writing(self.cache):
            folder = self.cache / dataset_digest(queries)
            return cache_states(checkpoint_of(self.config.meta), queries, folder, progress=self.progress)

    async def _answers(self, url: str | None, concurrency: int) -> Answers | None:
        if url is None:
            self.notes.append("the cluster was not asked, so there are no answers to judge")
            return None
        scored = scored_indices(self.queries)
        if not scored:
            self.notes.append("no query has a right answer, so there are no answers to judge")
        name, progress = self.config.name, self.progress
        served: list[Reply] = []
        if SERVED in self.methods:
            # All queries go to the generalist: its hand-overs can be judged without a right answer.
            served = (await ask_models(url, [name], self.queries, concurrency, progress))[name]
        ids = {model: f"{name}/{model}" for model in (META, *sorted(self.config.experts))}
        scored_queries = [self.queries[index] for index in scored]
        alone = await ask_models(url, list(ids.values()), scored_queries, concurrency, progress)
        return Answers(
            alone={model: [reply.text for reply in alone[model_id]] for model, model_id in ids.items()},
            served=[served[index].text for index in scored] if served else None,
            served_judgements=list(map(served_judgement, self.queries, served)) if served else None,
        )

    def _baselines(self, states: States, tokens: Sequence[ExpertToken]) -> dict[str, list[Judgement]]:
        """The judgements of the methods that learn from `train`, by the method's name."""
        wanted = [name for name in LEARNED if name in self.methods]
        if not wanted:
            return {}
        if self.train is None:
            self.notes.append(
                "no training queries were given, so the baselines that learn from them are left out"
            )
            return {}
        judged = {}
        # Baselines learn from the same positions as the tokens.
        train = as_learned(self.cache, self.train, {token.dataset_digest for token in tokens})
        if {*wanted} - {PROMPTED}:
            # Imported late, like the pictures: other commands work without the packages that these two need.
            from experts.evaluate.baselines import judge_baselines

            judged = judge_baselines(
                self._states(train),
                states,
                only_at_start=self.config.routing.when == "start",
                methods=wanted,
                progress=self.progress,
            )
        if PROMPTED in wanted:
            judged |= self._prompted(self.train)
        return judged

    def _prompted(self, train: Sequence[Query]) -> dict[str, list[Judgement]]:
        model, renderer = checkpoint_of(self.config.meta).load()
        names = sorted(self.config.experts)
        try:
            judged = judge_prompted(
                model, renderer, self.queries, expert_names=names, train=train, progress=self.progress
            )
        except DataError as error:  # its prompts are longer than the queries, which did fit
            self.notes.append(f"the prompted meta is left out: {error}")
            return {}
        return {PROMPTED: judged}


def _require_runnable(methods: Collection[str], has_train: bool, has_url: bool) -> None:
    for name in sorted(methods):
        if name in LEARNED and not has_train:
            raise ConfigError([f"--methods: '{name}' needs training queries; give them by --train"])
        if name == SERVED and not has_url:
            raise ConfigError([f"--methods: '{name}' asks the running cluster; remove --routes-only"])


def _require_ready(
    config: ClusterConfig, queries: Sequence[Query], train: Sequence[Query] | None
) -> list[ExpertToken]:
    """The experts' tokens, after all checks that need no model."""
    missing = [name for name in ("sklearn", "matplotlib") if find_spec(name) is None]
    if missing:
        raise ExpertsFault(
            f"evaluation needs {' and '.join(missing)}; run `pip install 'expert-token-routing[eval]'`"
        )
    if not config.experts:
        raise ConfigError([f"{config.source}: experts: none to evaluate; add one"])
    for query_set in (queries, train or ()):
        require_known(query_set, sorted(config.experts))
    return list(load_tokens(config).values())


def _write(evaluation: Evaluation, folder: Path) -> None:
    from experts.evaluate.pictures import write_pictures

    with _writing(folder):
        write_report(evaluation, folder)
        write_pictures(evaluation, folder)


def _make(folder: Path) -> None:
    with _writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        path = error.filename or folder
        raise ConfigError([f"{path}: cannot be written: {error.strerror}; name another folder"]) from error
