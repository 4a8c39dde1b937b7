"""Has the meta answer some of the queries itself, and keeps its answers beside the states. Imports torch."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Collection, Sequence
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.learning.checkpoints import checkpoint_of
from cluster.learning.options import LearnOptions
from cluster.learning.query_sets import Warn
from cluster.learning.state_cache import meta_folder, meta_identity, unwritable
from experts.files import write_atomic
from experts.learn.hidden_states import Progress
from experts.learn.own_answers import NUM_NEW_TOKENS, choose_unanswered, with_answers, write_answers
from experts.learn.queries import Query, dataset_digest

_NOT_ON_RAY = (
    "the meta's own answers are not learned from, because --ray computes only states; so experts may take "
    "over in the middle of an answer: run the command once without --ray, which keeps the answers, or add "
    "--mid-answer ignore"
)


def with_own_answers(
    config: ClusterConfig, queries: Sequence[Query], options: LearnOptions, progress: Progress, warn: Warn
) -> list[Query]:
    """The queries, some of them with the meta's own answer, as `options.mid_answer` says.

    Answers that an earlier call has kept are read. No answers are written, and the queries come back as they
    are, if the cluster hands over only at the start of an answer, or if Ray computes the states: then `warn`
    is called, because a large meta cannot run here.

    Raises:
        ConfigError: the folder for the answers cannot be written.
        ModelLoadError, TemplateError: the meta cannot be loaded.
    """
    chosen = choose_unanswered(queries)
    if options.mid_answer == "ignore" or config.routing.when == "start" or not chosen:
        return list(queries)
    asked = [queries[index] for index in chosen]
    path = _file(config, asked, options.states or meta_folder(config))
    answers = _kept(path, len(asked))
    if answers is None and options.ray_address is not None:
        warn(_NOT_ON_RAY)
        return list(queries)
    if answers is None:
        answers = _written(config, asked, options, path, progress)
    return with_answers(queries, dict(zip(chosen, answers, strict=True)), late=options.mid_answer == "late")


def as_learned(config: ClusterConfig, queries: Sequence[Query], digests: Collection[str]) -> list[Query]:
    """The queries with the kept answers, if tokens were learned from them so, and else without.

    `digests`: of the query sets that the tokens were learned from. Raises ConfigError, ModelLoadError.
    """
    chosen = choose_unanswered(queries)
    asked = [queries[index] for index in chosen]
    answers = _kept(_file(config, asked, meta_folder(config)), len(asked))
    if answers is not None:
        for late in (False, True):
            found = with_answers(queries, dict(zip(chosen, answers, strict=True)), late=late)
            if dataset_digest(found) in digests:
                return found
    return list(queries)


def _file(config: ClusterConfig, asked: Sequence[Query], folder: Path) -> Path:
    """One for each meta, each set of questions and each length of answers."""
    identity = repr((meta_identity(config), dataset_digest(asked), NUM_NEW_TOKENS))
    return folder / f"own-answers-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.json"


def _kept(path: Path, num_answers: int) -> list[str] | None:
    """The answers in the file; None if it is missing or damaged."""
    try:
        answers = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    is_whole = isinstance(answers, list) and all(isinstance(answer, str) for answer in answers)
    return answers if is_whole and len(answers) == num_answers else None


def _written(
    config: ClusterConfig, asked: Sequence[Query], options: LearnOptions, path: Path, progress: Progress
) -> list[str]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)  # first, because the model takes long
        progress(0, len(asked), "own answers")  # loading takes a while
        model, renderer = checkpoint_of(config.meta).load()
        answers = write_answers(model, renderer, asked, batch_size=options.batch_size, progress=progress)
        del model, renderer
        gc.collect()  # the pass that computes the states needs the memory now
        write_atomic(path, json.dumps(answers, ensure_ascii=False, indent=0).encode() + b"\n")
    except OSError as error:
        raise unwritable(error) from error
    return answers
