"""What `etr plan` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cluster.serve.plan import Change, Plan

STYLES = {
    Change.START: "green",
    Change.RESTART: "bold yellow",
    Change.UPDATE: "cyan",
    Change.STOP: "red",
    Change.KEEP: "dim",
}
MEANINGS = {
    Change.START: "starts",
    Change.RESTART: "restarts, one replica after another",
    Change.UPDATE: "changes in place",
    Change.STOP: "is masked, finishes its answers, stops",
    Change.KEEP: "no change",
}


def plan(console: Console, plan: Plan) -> None:
    if plan.changes_nothing:
        console.print("nothing would change")
        return
    table = Table("application", "what", "why")
    for change in plan.changes:
        meaning = Text(MEANINGS[change.change], STYLES[change.change])
        table.add_row(change.app, meaning, Text("\n".join(change.why)))
    console.print(table)
