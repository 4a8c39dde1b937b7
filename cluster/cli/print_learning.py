"""What `etr learn`, `etr eval` and `etr experts add` print: labels, and how the tokens route.

Imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from cluster.cli import print_stages
from cluster.learning.add_expert import AdditionTrial
from cluster.learning.labels import LabelledSet
from cluster.learning.learn import Learned
from cluster.learning.training_set import TrainingSet
from experts.evaluate.evaluation import Evaluation
from experts.evaluate.false_handovers import GeneralKind, count_false_handovers
from experts.evaluate.methods import NO_EXPERT, TOKENS
from experts.learn.hidden_states import Progress
from experts.learn.learn import FitReport
from experts.learn.routing_judge import Judgement, MidAnswerCounts, RouteScores, confusion
from router.chain_rules import CHAIN_STOP

MAX_EXPERTS = 12  # a table with more columns does not fit into a terminal


@contextmanager
def stages(console: Console) -> Iterator[Progress]:
    """A bar or lines for each stage; see print_stages.py."""
    logging.disable_progress_bar()  # it would overwrite our own
    with print_stages.stages(console) as progress:
        yield progress


def labels(console: Console, labelled: LabelledSet) -> None:
    """Which file has synthesised questions, and how many queries without a label each expert got."""
    num_assigned = labelled.num_assigned
    if labelled.synthesized:
        _line(console, f"the questions that a model wrote: {labelled.synthesized}")
    if not num_assigned:
        return
    counts = ", ".join(f"{name or NO_EXPERT} {count}" for name, count in num_assigned.items())
    _line(console, f"{sum(num_assigned.values())} queries without a label: {counts}")
    if labelled.saved_to:
        _line(console, f"labels and the scores of every model: {labelled.saved_to}")


def learned(console: Console, result: Learned) -> None:
    """How each expert's queries are routed with the new tokens, and how often one wins in mid-answer."""
    report = result.report
    num_held_out = report.num_held_out
    where = f"{num_held_out} held-out queries" if num_held_out else "the queries that it was learned from"
    console.print(_scores(report.after, report.names, f"routing on {where}"))
    _mid_answer(console, report.mid_answer)
    _false_handovers(console, report.after, result.kinds)
    _training(console, result.training)
    folder = result.training.states_folder
    _line(console, f"learned from {report.num_train} queries; hidden states are in {folder}")


def stop(console: Console, report: FitReport) -> None:
    """Of how many answers the token of a chain's end says that they are good enough."""
    kind = "held-out answers" if report.num_held_out else "the answers that it was learned from"
    for what, name in (("good enough", CHAIN_STOP), ("that another answer was better than", None)):
        judged = [judgement for judgement in report.after if judgement.expert == name]
        num_stops = sum(judgement.routed == CHAIN_STOP for judgement in judged)
        _line(console, f"{kind} {what}: a chain ends at {num_stops} of {len(judged)}")
    _line(console, f"learned from {report.num_train} answers")


def trial(console: Console, result: AdditionTrial) -> None:
    """The accuracy of every expert, and which expert gets whose queries, before and after the addition."""
    title = f"accuracy on {len(result.after)} held-out queries"
    table = Table("expert", "queries", "before", "after", title=title)
    for name in (*result.incumbents, result.new.name):
        before, after = (_share(accuracy) for accuracy in result.accuracy(name))
        table.add_row(name, str(result.num_queries(name)), before, _changed(before, after))
    before, after = (
        _share(_share_not_handed_over(judgements)) for judgements in (result.before, result.after)
    )
    table.add_section()
    table.add_row(NO_EXPERT, str(_num(result.after, None)), before, _changed(before, after))
    console.print(table)
    names = sorted([*result.incumbents, result.new.name])
    if len(names) <= MAX_EXPERTS:
        console.print(_confusion(result.before, result.after, names))
    _mid_answer(console, result.mid_answer)
    _false_handovers(console, result.after, result.kinds)
    _training(console, result.training)
    _line(console, f"hidden states are in {result.training.states_folder}")


def evaluation(console: Console, result: Evaluation) -> None:
    """How every method routes and, if models were called, how it answers."""
    answers = ("answers, strict", "answers, lenient") if result.has_answers else ()
    title = f"{result.num_queries} queries; 95 % intervals are in the report"
    columns = ("right decisions", "right expert", "wrong expert", "no hand-over", "false triggers")
    table = Table("method", *columns, *answers, title=title)
    for method in result.methods:
        routes = method.routes
        shares = [method.decisions.estimate.mean, routes.accuracy, routes.wrong_expert, routes.no_handover]
        grades = [grade.accuracy.estimate.mean for grade in (method.strict, method.lenient) if grade]
        table.add_row(method.name, *map(_share, [*shares, routes.false_trigger_rate, *grades]))
    console.print(table)
    _false_handovers(console, result.method(TOKENS).judgements, result.kinds)
    for note in result.notes:
        _line(console, note)


def _mid_answer(console: Console, counts: MidAnswerCounts) -> None:
    if counts.num_answers:
        what = "answers that the meta itself began to queries of experts"
        _line(console, f"mid-answer hand-overs: in {counts.num_taken_over} of {counts.num_answers} {what}")


def _false_handovers(
    console: Console, judgements: Sequence[Judgement], kinds: Sequence[GeneralKind | None]
) -> None:
    if not any(kinds):
        return
    counts = count_false_handovers(judgements, kinds)
    parts = [f"{own.num_handed_over} of {own.num_queries} {kind}" for kind, own in counts.items()]
    _line(console, f"false hand-overs: {', '.join(parts)} general queries")


def _training(console: Console, training: TrainingSet) -> None:
    """What the meta has added to the data."""
    if num_questions := training.num_from("meta"):
        left_out = f"; {training.num_left_out} more may be for an expert" if training.num_left_out else ""
        _line(console, f"general queries that the meta wrote: {num_questions}{left_out}")
    if num_paraphrases := training.num_from("paraphrase"):
        _line(console, f"queries that the meta put in other words: {num_paraphrases}")


def _scores(judgements: Sequence[Judgement], names: Sequence[str], title: str) -> Table:
    table = Table("expert", "queries", "accuracy", "early", "wrong expert", "no hand-over", title=title)
    for name in names:
        scores = RouteScores.of(judgements, name)
        shares = (scores.accuracy, scores.early, scores.wrong_expert, scores.no_handover)
        table.add_row(name, str(_num(judgements, name)), *(_share(share) for share in shares))
    table.add_section()
    kept = _share_not_handed_over(judgements)
    cells = (_share(kept), "", _share(1 - kept), _share(kept))
    table.add_row(NO_EXPERT, str(_num(judgements, None)), *cells)
    return table


def _confusion(before: Sequence[Judgement], after: Sequence[Judgement], names: Sequence[str]) -> Table:
    """A row for each right expert, a column for each that is chosen. A cell that changes has both counts."""
    table = Table(
        "right \\ chosen",
        *names,
        NO_EXPERT,
        title="queries by right and chosen expert, before and after",
        box=SIMPLE,
    )
    rows = zip([*names, NO_EXPERT], confusion(before, names), confusion(after, names), strict=True)
    for name, old, new in rows:
        table.add_row(name, *(_counts(*cell) for cell in zip(old, new, strict=True)))
    return table


def _counts(before: int, after: int) -> Text:
    if before == after:
        return Text(str(after) if after else "·")
    return Text(f"{before} → {after}", "bold")


def _share_not_handed_over(judgements: Sequence[Judgement]) -> float:
    """The share of the general queries that stay with the meta."""
    return 1 - RouteScores.of(judgements).false_trigger_rate


def _num(judgements: Sequence[Judgement], name: str | None) -> int:
    return sum(judgement.expert == name for judgement in judgements)


def _share(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.3f}"


def _changed(before: str, after: str) -> Text:
    return Text(after, "bold" if before != after else "")


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
