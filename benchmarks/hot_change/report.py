"""The report of a run: a timeline, the processes before and after, the new experts; and the same as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hot_change.answers import Answer, Question, Verdict, judge
from benchmarks.hot_change.changes import NewExpert, Step
from cluster.serve.app_status import ANSWERS, AppEvent
from cluster.serve.serve_details import RUNNING

MAX_ANSWER_DELAY_S = 2.0
MAX_SHOWN = 100  # characters of an answer that is not whole
Pids = Mapping[str, frozenset[int]]


@dataclass(frozen=True)
class Run:
    """`known`: the answers to each question before and after all changes. Times are of time.monotonic()."""

    began_s: float
    ended_s: float
    num_clients: int
    steps: Sequence[Step]
    new_experts: Sequence[NewExpert]
    token_replaced_s: float
    answers: Sequence[Answer]
    known: Mapping[Question, frozenset[str]]
    pids_before: Pids
    pids_after: Pids
    changed: frozenset[str]  # applications that a step added, removed or scaled

    def verdicts(self, until_s: float | None = None) -> Counter[Verdict]:
        """Count the verdicts of the answers that ended by `until_s`."""
        ended = [answer for answer in self.answers if until_s is None or answer.ended_s <= until_s]
        return Counter(judge(answer, self.known[answer.question]) for answer in ended)

    @property
    def untouched(self) -> list[str]:
        """Applications that no step added, removed or scaled."""
        return sorted(self.pids_before.keys() - self.changed)

    @property
    def pids_kept(self) -> bool:
        return all(self.pids_before[app] == self.pids_after.get(app) for app in self.untouched)

    def as_json(self) -> dict[str, Any]:
        verdicts = self.verdicts()
        num_tokens = sum(answer.num_tokens for answer in self.answers)
        return {
            "num_clients": self.num_clients,
            "num_answers": len(self.answers),
            "tokens_per_s": round(num_tokens / (self.ended_s - self.began_s), 1),
            **{f"num_{verdict}": verdicts[verdict] for verdict in Verdict},
            "pids_kept": self.pids_kept,
            "num_untouched": len(self.untouched),
            "token_replaced_s": round(self.token_replaced_s, 2),
            "new_experts": {
                expert.name: {
                    "load_s": round(expert.load_s, 2),
                    "running_s": round(expert.running_s, 2),
                    "first_answer_s": round(expert.first_answer_s, 2),
                }
                for expert in self.new_experts
            },
            "steps_s": {step.name: round(step.took_s, 2) for step in self.steps},
        }


def show(console: Console, run: Run) -> None:
    console.print(_timeline(run))
    console.print(_processes(run))
    for expert in run.new_experts:
        console.print(
            f"{expert.name}: loaded {expert.running_s:.1f} s after the apply (load {expert.load_s:.1f} s); "
            f"first answer {expert.answer_delay_s:.1f} s later (target: at most {MAX_ANSWER_DELAY_S:g} s)"
        )
    console.print(f"decisions used the new vector after {run.token_replaced_s:.2f} s")
    for answer in run.answers:
        verdict = judge(answer, run.known[answer.question])
        if verdict is not Verdict.WHOLE:
            console.print(_describe(run, answer, verdict), markup=False)


def _timeline(run: Run) -> Table:
    table = Table("t, s", "change", "took, s", "answers", "not whole", title=f"{run.num_clients} clients")
    for step in run.steps:
        for at_s, event in _events_of_changed(step):
            table.add_row(f"{at_s - run.began_s:.1f}", f"  {event.app} {event.status}", style="dim")
        _add_row(table, run, step.began_s + step.took_s, step.name, f"{step.took_s:.1f}")
    _add_row(table, run, run.ended_s, "clients stopped", "")
    return table


def _events_of_changed(step: Step) -> list[tuple[float, AppEvent]]:
    """The events of applications that changed in this step."""
    changed = {event.app for _, event in step.events if event.status not in (RUNNING, ANSWERS)}
    return [(at_s, event) for at_s, event in step.events if event.app in changed]


def _add_row(table: Table, run: Run, at_s: float, change: str, took: str) -> None:
    verdicts = run.verdicts(at_s)
    num_bad = verdicts.total() - verdicts[Verdict.WHOLE]
    table.add_row(f"{at_s - run.began_s:.1f}", change, took, str(verdicts.total()), str(num_bad))


def _processes(run: Run) -> Table:
    table = Table("application", "pids before", "pids after", "", title="Processes")
    for app in sorted({**run.pids_before, **run.pids_after}):
        before, after = run.pids_before.get(app, frozenset()), run.pids_after.get(app, frozenset())
        outcome = "as before" if before == after else "changed" if app in run.changed else "RESTARTED"
        table.add_row(app, _listed(before), _listed(after), outcome)
    return table


def _listed(pids: frozenset[int]) -> str:
    return " ".join(map(str, sorted(pids)))


def _describe(run: Run, answer: Answer, verdict: Verdict) -> str:
    span = f"{answer.began_s - run.began_s:.1f} to {answer.ended_s - run.began_s:.1f} s"
    return (
        f"{verdict} ({span}, written by {', '.join(answer.writers) or 'no model'}): "
        f"{answer.error or answer.text[-MAX_SHOWN:]!r}; known: "
        f"{sorted(text[-MAX_SHOWN:] for text in run.known[answer.question])}"
    )
