"""What a run showed: a timeline, the processes before and after, the newcomers, and all of it as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hot.answers import Answer, Question, Verdict, judge
from benchmarks.hot.changes import Newcomer, Step
from cluster.events import ANSWERS, AppEvent
from cluster.status import RUNNING

MAX_OPENED_S = 2.0
MAX_SHOWN = 100  # characters of an answer that is not whole
Pids = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Run:
    """`known`: what each question was answered in peace, before and after. Times are of time.monotonic()."""

    began_s: float
    ended_s: float
    num_clients: int
    steps: Sequence[Step]
    newcomers: Sequence[Newcomer]
    swapped_s: float
    answers: Sequence[Answer]
    known: Mapping[Question, frozenset[str]]
    pids_before: Pids
    pids_after: Pids
    changed: frozenset[str]  # applications that a step added, removed or scaled

    def verdicts(self, until_s: float | None = None) -> Counter[Verdict]:
        """Of the answers that ended by then."""
        ended = [one for one in self.answers if until_s is None or one.ended_s <= until_s]
        return Counter(judge(one, self.known[one.question]) for one in ended)

    @property
    def untouched(self) -> list[str]:
        """Applications whose replicas no change concerned."""
        return sorted(self.pids_before.keys() - self.changed)

    @property
    def pids_kept(self) -> bool:
        return all(self.pids_before[app] == self.pids_after.get(app) for app in self.untouched)

    def as_json(self) -> dict[str, Any]:
        verdicts = self.verdicts()
        num_tokens = sum(one.num_tokens for one in self.answers)
        return {
            "num_clients": self.num_clients,
            "num_answers": len(self.answers),
            "tokens_per_s": round(num_tokens / (self.ended_s - self.began_s), 1),
            **{f"num_{verdict}": verdicts[verdict] for verdict in Verdict},
            "pids_kept": self.pids_kept,
            "num_untouched": len(self.untouched),
            "vector_swapped_s": round(self.swapped_s, 2),
            "newcomers": {
                one.name: {
                    "load_s": round(one.load_s, 2),
                    "running_s": round(one.running_s, 2),
                    "first_answer_s": round(one.first_answer_s, 2),
                }
                for one in self.newcomers
            },
            "steps_s": {step.what: round(step.took_s, 2) for step in self.steps},
        }


def show(console: Console, run: Run) -> None:
    console.print(_timeline(run))
    console.print(_processes(run))
    for one in run.newcomers:
        console.print(
            f"{one.name}: loaded {one.running_s:.1f} s after the apply, {one.load_s:.1f} s of that the load; "
            f"its first answer whole {one.opened_s:.1f} s later (wanted: at most {MAX_OPENED_S:g})"
        )
    console.print(f"the new vector decided after {run.swapped_s:.2f} s")
    for answer in run.answers:
        verdict = judge(answer, run.known[answer.question])
        if verdict is not Verdict.WHOLE:
            console.print(_told(run, answer, verdict), markup=False)


def _timeline(run: Run) -> Table:
    table = Table("t, s", "change", "took, s", "answers", "not whole", title=f"{run.num_clients} clients")
    for step in run.steps:
        for at_s, event in _moved(step):
            table.add_row(f"{at_s - run.began_s:.1f}", f"  {event.app} {event.status}", style="dim")
        _add_row(table, run, step.began_s + step.took_s, step.what, f"{step.took_s:.1f}")
    _add_row(table, run, run.ended_s, "clients end", "")
    return table


def _moved(step: Step) -> list[tuple[float, AppEvent]]:
    """The events of applications that did more than go on running."""
    moved = {event.app for _, event in step.events if event.status not in (RUNNING, ANSWERS)}
    return [(at_s, event) for at_s, event in step.events if event.app in moved]


def _add_row(table: Table, run: Run, at_s: float, what: str, took: str) -> None:
    verdicts = run.verdicts(at_s)
    num_bad = verdicts.total() - verdicts[Verdict.WHOLE]
    table.add_row(f"{at_s - run.began_s:.1f}", what, took, str(verdicts.total()), str(num_bad))


def _processes(run: Run) -> Table:
    table = Table("application", "pids before", "pids after", "", title="Processes")
    for app in sorted({**run.pids_before, **run.pids_after}):
        before, after = run.pids_before.get(app, frozenset()), run.pids_after.get(app, frozenset())
        what = "as before" if before == after else "was changed" if app in run.changed else "RESTARTED"
        table.add_row(app, _listed(before), _listed(after), what)
    return table


def _listed(found: frozenset[int]) -> str:
    return " ".join(map(str, sorted(found)))


def _told(run: Run, answer: Answer, verdict: Verdict) -> str:
    span = f"{answer.began_s - run.began_s:.1f} to {answer.ended_s - run.began_s:.1f} s"
    return (
        f"{verdict} ({span}, written by {', '.join(answer.writers) or 'nobody'}): "
        f"{answer.error or answer.text[-MAX_SHOWN:]!r}; known: "
        f"{sorted(text[-MAX_SHOWN:] for text in run.known[answer.question])}"
    )
