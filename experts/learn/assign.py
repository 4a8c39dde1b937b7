"""Labels for queries that have none: each goes to the model that finds its reference answer likeliest."""

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
from experts.files import replace_file
from experts.learn.likelihood import Likelihood, reference_likelihoods, require_references
from experts.learn.queries import Query, broken_lines
from experts.learn.rows import to_row
from experts.learn.states import Progress

META = "meta"
# Some 0.2 nats on a word piece of four bytes, so that close calls stay with the meta; on its own subject
# a model usually leads by several times that.
DEFAULT_MARGIN = 0.05
_NUM_LISTED = 5


@dataclass(frozen=True)
class Assignment:
    """Who a query went to (None: nobody), and why: every model's score, the meta's under "meta".

    Scores are nats per UTF-8 byte of the reference, lower is better, infinite for a model that cannot give
    that answer. Per byte, and not per token: tokenizers cut the same text into different numbers of tokens,
    so that a mean per token would favour the model that needs more of them, whose many small steps are
    each easy to guess.
    """

    expert: str | None
    nll_per_byte: Mapping[str, float]
    margin: float


@dataclass(frozen=True)
class AssignedSet:
    """`queries`: all labelled now, in the order given. `assignments`: one each; None if labelled before."""

    queries: list[Query]
    assignments: list[Assignment | None]

    def save(self, path: Path | str) -> None:
        """Writes chat JSONL for `read_queries`, with the scores beside each row; null is an infinite one.

        Whoever reads `path` meanwhile sees the old file or the new one.
        """
        pairs = zip(self.queries, self.assignments, strict=True)
        rows = [to_row(query) | (_scores_row(one) if one else {}) for query, one in pairs]
        text = "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
        replace_file(Path(path), text.encode())


def assign_queries(
    checkpoints: Mapping[str, Checkpoint],
    queries: Sequence[Query],
    *,
    margin: float = DEFAULT_MARGIN,
    must_win: Collection[str] | None = None,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> AssignedSet:
    """Scores every unlabelled query's reference under "meta" and the experts, one model in memory at a time.

    An expert gets a query if its score is lower by at least `margin` than the meta's and every other
    expert's; otherwise nobody gets it, and the meta is to answer. Labelled queries stay as they are.
    Raises DataError (a query without reference and label, or one the meta cannot be asked; an expert of
    `must_win`, by default any, that has no query), ModelLoadError, TemplateError.
    """
    assert META in checkpoints, "the experts are compared with the meta"
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin {margin} is not a number of nats per byte from 0 up")
    unlabelled = [query for query in queries if not query.labelled]
    require_references(unlabelled)
    scores = _scores(checkpoints, unlabelled, batch_size, progress)
    found = iter([Assignment(_winner(row, margin), row, margin) for row in scores])
    assignments = [None if query.labelled else next(found) for query in queries]
    assigned = [
        replace(query, expert=one.expert, labelled=True) if one else query
        for query, one in zip(queries, assignments, strict=True)
    ]
    needy = [name for name in checkpoints if name != META] if must_win is None else must_win
    winners = {query.expert for query in assigned}
    _require_winners([name for name in needy if name not in winners], scores, margin)
    return AssignedSet(assigned, assignments)


def _scores(
    checkpoints: Mapping[str, Checkpoint], queries: Sequence[Query], batch_size: int, progress: Progress
) -> list[dict[str, float]]:
    """For every query the nats per byte under each model."""
    if not queries:
        return []
    # The meta first: what it cannot be asked is an error, better told before the experts are loaded.
    names = sorted(checkpoints, key=lambda name: name != META)
    columns = [_likelihoods(name, checkpoints[name], queries, batch_size, progress) for name in names]
    values = [[one.nll_per_byte for one in column] for column in columns]
    return [dict(zip(names, row, strict=True)) for row in zip(*values, strict=True)]


def _likelihoods(
    name: str, checkpoint: Checkpoint, queries: Sequence[Query], batch_size: int, progress: Progress
) -> list[Likelihood]:
    model, renderer = checkpoint.load()
    found = reference_likelihoods(
        model,
        renderer,
        queries,
        batch_size=batch_size,
        progress=lambda done, total, what: progress(done, total, f"{what} under {name}"),
    )
    del model, renderer
    gc.collect()  # hooks tie models into cycles, and the next model needs the memory now
    if name == META:
        _require_answerable(queries, found)
    return found


def _require_answerable(queries: Sequence[Query], likelihoods: Sequence[Likelihood]) -> None:
    pairs = zip(queries, likelihoods, strict=True)
    problems = [
        f"{query.place}: the meta cannot be asked: {one.refusal}" for query, one in pairs if one.refusal
    ]
    if problems:
        raise DataError(broken_lines("query set", problems, len(queries)))


def _winner(scores: Mapping[str, float], margin: float) -> str | None:
    (best, lowest), *others = sorted(scores.items(), key=lambda item: item[1])
    # At a margin of 0 a tie is nobody's; and of two infinite scores neither is lower.
    lead = min((score for _, score in others), default=lowest) - lowest
    return best if best != META and lead > 0 and lead >= margin else None


def _require_winners(losers: Sequence[str], scores: Sequence[Mapping[str, float]], margin: float) -> None:
    if losers and scores:
        listed = "; nor to ".join(_defeat(name, scores) for name in losers[:_NUM_LISTED])
        more = f"; nor to {len(losers) - _NUM_LISTED} more" if len(losers) > _NUM_LISTED else ""
        raise DataError(
            f"at a margin of {margin:g} nats per byte, of {len(scores)} unlabelled queries none goes to "
            f"{listed}{more}; add queries that it answers better than the others, label some, "
            "lower the margin, or leave it out"
        )


def _defeat(name: str, scores: Sequence[Mapping[str, float]]) -> str:
    beats_meta = sum(row[name] < row[META] for row in scores)
    rivals = Counter(rival for row in scores for rival in row if row[rival] < row[name])
    rivals_text = "".join(f"{rival} beats it most often, on {num}" for rival, num in rivals.most_common(1))
    return f"expert '{name}' (it beats the meta on {beats_meta}; {rivals_text or 'nobody beats it'})"


def _scores_row(assignment: Assignment) -> dict[str, Any]:
    rounded = {
        name: round(score, 4) if math.isfinite(score) else None
        for name, score in assignment.nll_per_byte.items()
    }
    return {"nll_per_byte": rounded, "margin": assignment.margin}
