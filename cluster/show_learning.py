"""What the commands that learn print: how far they are, who got which queries, how the tokens route.

Imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.box import SIMPLE
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text
from transformers.utils import logging

from cluster.experts import Trial
from cluster.labels import LabelledSet
from cluster.learn import Learned
from experts.evaluate.evaluation import Evaluation
from experts.evaluate.methods import NOBODY
from experts.learn.route import Judgement, RouteScores, confusion
from experts.learn.states import Progress

MAX_EXPERTS = 12  # more columns than that no terminal is wide enough for


@contextmanager
def stages(console: Console) -> Iterator[Progress]:
    """A bar for every stage; where nobody watches, a line when it is done."""
    logging.disable_progress_bar()  # a checkpoint that loads would draw over ours
    if not console.is_terminal:
        yield _line_when_done(console)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def on_progress(done: int, total: int, what: str) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield on_progress


def labels(console: Console, labelled: LabelledSet) -> None:
    """Where the queries went that came without a label."""
    given = labelled.num_assigned
    if not given:
        return
    who = ", ".join(f"{name or NOBODY} {count}" for name, count in given.items())
    _line(console, f"{sum(given.values())} queries without a label: {who}")
    if labelled.saved_to:
        _line(console, f"the labelled set, with every model's scores: {labelled.saved_to}")


def learned(console: Console, result: Learned) -> None:
    lesson = result.lesson
    num_held_out = lesson.num_held_out
    where = f"{num_held_out} held-out queries" if num_held_out else "the very queries learned from"
    console.print(_scores(lesson.after, lesson.names, f"routing on {where}"))
    _line(console, f"learned from {lesson.num_train} queries; states kept in {result.states_folder}")


def trial(console: Console, result: Trial) -> None:
    """Every expert's accuracy, and who takes whose queries: before and after."""
    title = f"accuracy on {len(result.after)} held-out queries"
    table = Table("expert", "queries", "before", "after", title=title)
    for name in (*result.incumbents, result.new.name):
        before, after = (_share(one) for one in result.accuracy(name))
        table.add_row(name, str(result.num_queries(name)), before, _changed(before, after))
    before, after = (_share(_left_alone(judgements)) for judgements in (result.before, result.after))
    table.add_section()
    table.add_row(NOBODY, str(_num(result.after, None)), before, _changed(before, after))
    console.print(table)
    names = sorted([*result.incumbents, result.new.name])
    if len(names) <= MAX_EXPERTS:
        console.print(_confusion(result.before, result.after, names))
    _line(console, f"states kept in {result.states_folder}")


def evaluation(console: Console, result: Evaluation) -> None:
    """Every method's routes and, where models were asked, its answers."""
    answers = ("answers, strict", "answers, lenient") if result.has_answers else ()
    title = f"{result.num_queries} queries; 95 % intervals are in the report"
    columns = ("right decisions", "right expert", "wrong expert", "no hand-over", "false triggers")
    table = Table("method", *columns, *answers, title=title)
    for method in result.methods:
        routes = method.routes
        shares = [method.decisions.estimate.mean, routes.accuracy, routes.wrong_expert, routes.no_handover]
        marks = [one.accuracy.estimate.mean for one in (method.strict, method.lenient) if one is not None]
        table.add_row(method.name, *map(_share, [*shares, routes.false_trigger_rate, *marks]))
    console.print(table)
    for note in result.notes:
        _line(console, note)


def _scores(judgements: Sequence[Judgement], names: Sequence[str], title: str) -> Table:
    table = Table("expert", "queries", "accuracy", "early", "wrong expert", "no hand-over", title=title)
    for name in names:
        one = RouteScores.of(judgements, name)
        shares = (one.accuracy, one.early, one.wrong_expert, one.no_handover)
        table.add_row(name, str(_num(judgements, name)), *(_share(share) for share in shares))
    table.add_section()
    left = _left_alone(judgements)
    cells = (_share(left), "", _share(1 - left), _share(left))
    table.add_row(NOBODY, str(_num(judgements, None)), *cells)
    return table


def _confusion(before: Sequence[Judgement], after: Sequence[Judgement], names: Sequence[str]) -> Table:
    """A row for who should take over, a column for who does; a cell that changes has both counts."""
    table = Table("should \\ does", *names, NOBODY, title="who takes over, before and after", box=SIMPLE)
    rows = zip([*names, NOBODY], confusion(before, names), confusion(after, names), strict=True)
    for name, old, new in rows:
        table.add_row(name, *(_counts(*cell) for cell in zip(old, new, strict=True)))
    return table


def _counts(before: int, after: int) -> Text:
    if before == after:
        return Text(str(after) if after else "·")
    return Text(f"{before} → {after}", "bold")


def _left_alone(judgements: Sequence[Judgement]) -> float:
    """Of nobody's queries, the share that nobody takes."""
    return 1 - RouteScores.of(judgements).false_trigger_rate


def _num(judgements: Sequence[Judgement], name: str | None) -> int:
    return sum(one.expert == name for one in judgements)


def _share(share: float) -> str:
    return "" if math.isnan(share) else f"{share:.3f}"


def _changed(before: str, after: str) -> Text:
    return Text(after, "bold" if before != after else "")


def _line_when_done(console: Console) -> Progress:
    def on_progress(done: int, total: int, what: str) -> None:
        if done == total:
            console.print(f"{what}: {total}")

    return on_progress


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)
