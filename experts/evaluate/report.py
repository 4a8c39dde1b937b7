"""Writes an evaluation to files: JSON for programs, Markdown for people."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experts.evaluate.evaluation import Evaluation
from experts.evaluate.false_handovers import (
    MAX_SHORT_WORDS,
    NUM_NEIGHBOURS,
    GeneralKind,
    count_false_handovers,
)
from experts.evaluate.intervals import Estimate
from experts.evaluate.methods import NO_EXPERT, TOKENS, AnswerScores, Method

PICTURES = {
    "confusion.png": "Experts that should take over, and that did",
    "accuracy.png": "All methods with their intervals",
    "trigger_rate.png": "Hand-overs at other call biases",
}
_INTERVALS = (
    "Shares are between 0 and 1, with 95 % bootstrap intervals over the queries in brackets. *vs tokens* is "
    "the difference to the tokens' share, paired by query; if its interval excludes 0, the difference is "
    "significant. If all queries agree, an interval has no width, which says nothing about other queries."
)
_KINDS = (
    "General queries that were handed over, by their kind. *Neighbouring*: one of the "
    f"{NUM_NEIGHBOURS} queries of this set that are nearest in hidden state is an expert's. *Short*: at most "
    f"{MAX_SHORT_WORDS} words, and not neighbouring. *Long*: all others."
)
_STRICT = (
    "*Strict*: the whole answer must be the right one. *Lenient*: the right answer occurs in it; for "
    "multiple choice, the closest choice is the right one. All methods but *served* are judged by the answer "
    "of the model that they choose, asked alone."
)


def write_report(evaluation: Evaluation, folder: Path, *, pictures: Iterable[str] = PICTURES) -> None:
    """Writes evaluation.json and evaluation.md to `folder`. `pictures`: names of the files to show.

    Raises OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = json.dumps(evaluation.to_json(), ensure_ascii=False, allow_nan=False, indent=1)
    (folder / "evaluation.json").write_text(data + "\n", encoding="utf-8")
    text = "\n".join(_lines(evaluation, pictures))
    (folder / "evaluation.md").write_text(text, encoding="utf-8")


def _lines(evaluation: Evaluation, pictures: Iterable[str]) -> Iterator[str]:
    yield from _head(evaluation)
    yield from _routing(evaluation)
    yield from _false_handovers(evaluation)
    yield from _answers(evaluation)
    yield from _confusion(evaluation)
    yield from ("## Methods", "")
    yield from (f"- **{method.name}**: {method.description}." for method in evaluation.methods)
    yield ""
    for file in pictures:
        yield from (f"![{PICTURES[file]}]({file})", "")


def _head(evaluation: Evaluation) -> Iterator[str]:
    counts = Counter(expert or NO_EXPERT for expert in evaluation.experts)
    yield from ("# Evaluation", "")
    yield (
        f"Meta `{evaluation.meta_name}` (head {evaluation.meta_fingerprint}), call bias "
        f"{evaluation.call_bias:g}, query set {evaluation.dataset_digest}."
    )
    yield (
        f"{evaluation.num_queries} queries, {evaluation.num_scored} of them with a right answer: "
        f"{', '.join(f'{name} {count}' for name, count in sorted(counts.items()))}."
    )
    yield from (f"Note: {note}." for note in evaluation.notes)
    yield from ("", _INTERVALS, "")


def _routing(evaluation: Evaluation) -> Iterator[str]:
    yield from ("## Routing", "")
    yield (
        "*Right decisions* counts all queries: the right expert at the right place, or rightly no expert. "
        "The next four columns are shares of the experts' queries; *false triggers* is the share of general "
        "queries (without an expert) that were handed over."
    )
    yield ""
    columns = ("method", "right decisions", "vs tokens", "right expert", "too early", "wrong expert")
    rows = []
    for method in evaluation.methods:
        routes = method.routes
        shares = (routes.accuracy, routes.early, routes.wrong_expert, routes.no_handover)
        gain = _gain(method.decisions.gain, method)
        cells = [_with_interval(method.decisions.estimate), gain, *map(_share, shares)]
        rows.append([method.name, *cells, _share(routes.false_trigger_rate)])
    yield from _table([*columns, "no hand-over", "false triggers"], rows)


def _false_handovers(evaluation: Evaluation) -> Iterator[str]:
    if not any(evaluation.kinds):
        return
    yield from ("## False hand-overs", "", _KINDS, "")
    rows = []
    for method in evaluation.methods:
        if method.judgements:
            counts = count_false_handovers(method.judgements, evaluation.kinds).values()
            rows.append([method.name, *(f"{kind.num_handed_over} of {kind.num_queries}" for kind in counts)])
    yield from _table(["method", *GeneralKind], rows)


def _answers(evaluation: Evaluation) -> Iterator[str]:
    yield from ("## Answers", "")
    if not evaluation.has_answers:
        reason = "the models were not asked" if evaluation.num_scored else "no query has a right answer"
        yield from (f"Left out: {reason}.", "")
        return
    yield from (_STRICT, "")
    rows = [
        [method.name, *_answer_cells(method.strict, method), *_answer_cells(method.lenient, method)]
        for method in evaluation.methods
    ]
    yield from _table(("method", "strict", "vs tokens", "lenient", "vs tokens"), rows)
    for reading in ("strict", "lenient"):
        yield from (f"### By expert, {reading}", "")
        yield from _by_expert(evaluation, reading)


def _answer_cells(scores: AnswerScores | None, method: Method) -> list[str]:
    assert scores is not None  # all methods have grades, or none has
    return [_with_interval(scores.accuracy.estimate), _gain(scores.accuracy.gain, method)]


def _by_expert(evaluation: Evaluation, reading: str) -> Iterator[str]:
    columns: dict[str, AnswerScores] = {
        method.name: getattr(method, reading) for method in evaluation.methods
    }
    experts = columns[TOKENS].by_expert
    rows = [
        [expert, *(_share(scores.by_expert[expert]) for scores in columns.values())] for expert in experts
    ]
    yield from _table(["expert", *columns], rows)


def _confusion(evaluation: Evaluation) -> Iterator[str]:
    yield from (
        "## Hand-overs",
        "",
        "By the tokens: a row for the expert that should take over, a column for the one that did.",
        "",
    )
    names = [*evaluation.names, NO_EXPERT]
    rows = [
        [name, *(str(count or "·") for count in counts)]
        for name, counts in zip(names, evaluation.confusion, strict=True)
    ]
    yield from _table(["", *names], rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' + '---:|' * (len(columns) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _share(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"


def _with_interval(estimate: Estimate) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]"


def _gain(gain: Estimate, method: Method) -> str:
    if method.name == TOKENS:
        return ""
    return f"{gain.mean:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
