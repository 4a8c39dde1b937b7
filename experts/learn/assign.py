"""Labels unlabelled queries: each goes to the model under which its reference answer is likeliest."""

from __future__ import annotations

import gc
import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experts.checkpoint import Checkpoint
from experts.errors import DataError
from experts.files import write_atomic
from experts.learn.hidden_states import Progress
from experts.learn.likelihood import Likelihood, reference_likelihoods, require_references
from experts.learn.queries import QUERY_SET, Query, broken_rows
from experts.learn.row_formats import to_row

META = "meta"
# About 0.2 nats on a token of four bytes, so that close calls stay with the meta. On its own subject a model
# usually leads by several times that.
DEFAULT_MARGIN = 0.05
_NUM_LISTED = 5


@dataclass(frozen=True)
class Assignment:
    """The expert that a query went to (None: no expert, the meta answers), with every model's score.

    `nll_per_byte` holds the meta's score under "meta". Scores are in nats per UTF-8 byte of the reference;
    lower is better, and infinite means that the model cannot give that answer. They are not per token: a
    tokenizer that needs more tokens for the same text finds each of them easier to predict, so a mean per
    token would favour its model.
    """

    expert: str | None
    nll_per_byte: Mapping[str, float]
    margin: float


@dataclass(frozen=True)
class AssignedSet:
    """`queries`: all labelled, in the order given. `assignments`: one per query; None if it had a label."""

    queries: list[Query]
    assignments: list[Assignment | None]

    def save(self, path: Path | str) -> None:
        """Writes chat JSONL for `read_queries`, with the scores in each row; null is an infinite score.

        Replaces `path` at once. Raises OSError.
        """
        pairs = zip(self.queries, self.assignments, strict=True)
        rows = [
            to_row(query) | (_scores_row(assignment) if assignment else {}) for query, assignment in pairs
        ]
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())


def assign_queries(
    checkpoints: Mapping[str, Checkpoint],
    queries: Sequence[Query],
    *,
    margin: float = DEFAULT_MARGIN,
    must_win: Collection[str] | None = None,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> AssignedSet:
    """Scores the reference of every unlabelled query under "meta" and all experts, one model at a time.

    An expert gets a query if its score is lower by at least `margin` (nats per byte) than the meta's and
    every other expert's; else the query goes to no expert. Labelled queries are not changed.
    Raises DataError (a query has neither reference nor label, or the meta cannot be asked; or an expert of
    `must_win`, by default any expert, gets no query), ModelLoadError, TemplateError.
    """
    assert META in checkpoints, "the experts are compared with the meta"
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin {margin} is not a number of nats per byte, 0 or more")
    unlabelled = [query for query in queries if not query.labelled]
    require_references(unlabelled)
    scores = _scores(checkpoints, unlabelled, batch_size, progress)
    found = iter([Assignment(_winner(row, margin), row, margin) for row in scores])
    assignments = [None if query.labelled else next(found) for query in queries]
    assigned = [
        replace(query, expert=assignment.expert, labelled=True) if assignment else query
        for query, assignment in zip(queries, assignments, strict=True)
    ]
    required = [name for name in checkpoints if name != META] if must_win is None else must_win
    winners = {query.expert for query in assigned}
    _require_no_losers([name for name in required if name not in winners], scores, margin)
    return AssignedSet(assigned, assignments)


def _scores(
    checkpoints: Mapping[str, Checkpoint], queries: Sequence[Query], batch_size: int, progress: Progress
) -> list[dict[str, float]]:
    """For every query, the nats per byte under each model."""
    if not queries:
        return []
    # The meta comes first: if it cannot be asked a query, that is reported before experts are loaded.
    names = sorted(checkpoints, key=lambda name: name != META)
    columns = [_likelihoods(name, checkpoints[name], queries, batch_size, progress) for name in names]
    values = [[likelihood.nll_per_byte for likelihood in column] for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _likelihoods(
    name: str, checkpoint: Checkpoint, queries: Sequence[Query], batch_size: int, progress: Progress
) -> list[Likelihood]:
    stage = f"likelihoods under {name}"
    progress(0, len(queries), stage)  # loading takes a while
    model, renderer = checkpoint.load()
    likelihoods = reference_likelihoods(
        model,
        renderer,
        queries,
        batch_size=batch_size,
        progress=lambda done, total, what: progress(done, total, stage),
    )
    del model, renderer
    gc.collect()  # hooks make reference cycles, and the next model needs the memory now
    if name == META:
        _require_answerable(queries, likelihoods)
    return likelihoods


def _require_answerable(queries: Sequence[Query], likelihoods: Sequence[Likelihood]) -> None:
    pairs = zip(queries, likelihoods, strict=True)
    problems = [
        f"{query.place}: the meta cannot be asked: {likelihood.refusal}"
        for query, likelihood in pairs
        if likelihood.refusal
    ]
    if problems:
        raise DataError(broken_rows(QUERY_SET, problems, len(queries)))


def _winner(scores: Mapping[str, float], margin: float) -> str | None:
    (best, lowest), *others = sorted(scores.items(), key=lambda item: item[1])
    # A tie has no winner, even at a margin of 0; and of two infinite scores neither is lower.
    lead = min((score for _, score in others), default=lowest) - lowest
    return best if best != META and lead > 0 and lead >= margin else None


def _require_no_losers(losers: Sequence[str], scores: Sequence[Mapping[str, float]], margin: float) -> None:
    if losers and scores:
        listed = "; nor to ".join(_defeat(name, scores) for name in losers[:_NUM_LISTED])
        more = f"; nor to {len(losers) - _NUM_LISTED} more" if len(losers) > _NUM_LISTED else ""
        raise DataError(
            f"at a margin of {margin:g} nats per byte, none of {len(scores)} unlabelled queries goes to "
            f"{listed}{more}; add queries that it answers better than all other models, label some, "
            "lower the margin, or remove the expert"
        )


def _defeat(name: str, scores: Sequence[Mapping[str, float]]) -> str:
    beats_meta = sum(row[name] < row[META] for row in scores)
    rivals = Counter(rival for row in scores for rival in row if row[rival] < row[name])
    rivals_text = "".join(f"{rival} beats it most often, on {num}" for rival, num in rivals.most_common(1))
    return f"expert '{name}' (it beats the meta on {beats_meta}; {rivals_text or 'no model beats it'})"


def _scores_row(assignment: Assignment) -> dict[str, Any]:
    rounded = {
        name: round(score, 4) if math.isfinite(score) else None
        for name, score in assignment.nll_per_byte.items()
    }
    return {"nll_per_byte": rounded, "margin": assignment.margin}
