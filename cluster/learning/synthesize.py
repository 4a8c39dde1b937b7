"""Writes a query set for one model of a cluster.yaml, with questions from a model itself. Imports torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cluster.config.cluster_config import ClusterConfig
from cluster.errors import ConfigError
from cluster.learning.checkpoints import checkpoints
from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.files import write_atomic
from experts.learn.hidden_states import Progress
from experts.learn.queries import Query
from experts.learn.row_formats import to_row
from experts.names import EXPERT_NAME
from experts.synthesize.asker import Asker
from experts.synthesize.questions import STAGE, Draw, Synthesis, synthesize
from experts.synthesize.user_turn import UserTurn
from router.table import META


def synthesize_queries(
    config: ClusterConfig,
    name: str,
    output: Path,
    draw: Draw,
    *,
    about: str = "",
    force: bool = False,
    progress: Progress,
) -> Synthesis:
    """Writes questions for the expert `name` to `output`, in chat JSONL labelled with it, at once.

    The expert writes them itself, and each is likelier from it than from the meta; both models are in memory.
    With `about`, a text about the expert's subject, the meta writes them with this text as the system
    message; each is likelier with it than without. The expert is not loaded then, and need not be in the
    config yet. `name` "meta": general questions, without a label. `force`: replaces the file.

    Raises:
        ConfigError: there is no such expert, it has no model here, or the file exists or cannot be written.
        ExpertsError: a model cannot be loaded or used, or none of its texts is a question.
    """
    _require_writable(output, force)
    sources = checkpoints(config)
    if about:
        _require_name(name)
    else:
        _require_local(config, name, sources)
    progress(0, draw.num, STAGE)  # loading takes a while
    writer, rival = _askers(sources, name, about)
    found = synthesize(writer, rival, draw, progress)
    if not found.questions:
        raise DataError(_nothing_kept(name, found, about))
    _write(output, found.questions, None if name == META else name)
    return found


def _askers(sources: dict[str, Checkpoint], name: str, about: str) -> tuple[Asker, Asker | None]:
    """The model that writes, and the one that it is compared with."""
    model, renderer = sources[META].load()
    meta = Asker(model, UserTurn.of(renderer))
    if about:
        return Asker(model, UserTurn.of(renderer, about)), meta
    if name == META:
        return meta, None
    model, renderer = sources[name].load()
    return Asker(model, UserTurn.of(renderer)), meta


def _require_writable(output: Path, force: bool) -> None:
    if output.exists() and not force:
        raise ConfigError([f"{output}: exists; name another file with --output, or replace it with --force"])
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(output, error) from error


def _require_name(name: str) -> None:
    if not EXPERT_NAME.fullmatch(name):
        raise ConfigError([f"'{name}' is not a valid expert name; use {EXPERT_NAME.pattern}"])


def _require_local(config: ClusterConfig, name: str, sources: dict[str, Checkpoint]) -> None:
    """Raises ConfigError unless `name` is the meta, or an expert whose model can be loaded here."""
    if name in sources:
        return
    remedy = "describe its subject with --about, and the meta writes the questions"
    if name in config.entries:
        raise ConfigError(
            [f"{config.source}: experts.{name}.remote: a remote model cannot write a user's turn; {remedy}"]
        )
    known = ", ".join([*sorted(sources.keys() - {META}), META])
    raise ConfigError(
        [f"{config.source}: no expert '{name}'; use one of {known}; for an expert to be added, {remedy}"]
    )


def _nothing_kept(name: str, found: Synthesis, about: str) -> str:
    if name == META or about:
        remedy = "another --temperature, --seed or --about may help"
    else:
        remedy = (
            "an expert that was trained on answers alone cannot ask; describe its subject with --about, and "
            "the meta writes the questions"
        )
    return f"no question for '{name}' ({found.summary()}); {remedy}"


def _write(output: Path, questions: Sequence[str], label: str | None) -> None:
    """Raises ConfigError."""
    queries = [Query(({"role": "user", "content": question},), label) for question in questions]
    text = "".join(json.dumps(to_row(query), ensure_ascii=False) + "\n" for query in queries)
    try:
        write_atomic(output, text.encode())
    except OSError as error:
        raise _unwritable(output, error) from error


def _unwritable(output: Path, error: OSError) -> ConfigError:
    return ConfigError([f"{output}: cannot be written: {error.strerror}; name another file with --output"])
