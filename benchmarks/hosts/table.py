"""One row for each fault: how many answers ended in which way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from benchmarks.chaos.replies import Ending
from benchmarks.chaos.report import ScenarioResult
from benchmarks.hosts.measurement import FaultReport

COLUMNS: Mapping[str, Sequence[Ending]] = {
    "whole": [Ending.WHOLE],
    "refused": [Ending.REFUSED],
    "error": [Ending.ERROR],
    "no connection": [Ending.BROKEN],
    "cut": [Ending.CUT, Ending.TRUNCATED],
    "doubled": [Ending.DOUBLED],
    "wrong": [Ending.WRONG],
    "hung": [Ending.HUNG],
}


def fault_table(results: Sequence[ScenarioResult]) -> Table:
    table = Table("fault", title="Faults between hosts")
    for column in ("streams", *COLUMNS, "pause, s", "healed, s"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(result.name, *_cells(result))
    return table


def _cells(result: ScenarioResult) -> list[str]:
    report = result.report
    if not isinstance(report, FaultReport):
        return [f"[red]{problem}[/red]" for problem in report.broken()]
    num = report.num_by_ending
    counts = [sum(num[ending] for ending in endings) for endings in COLUMNS.values()]
    return [*map(str, [sum(counts), *counts]), f"{report.longest_pause_s:.1f}", f"{report.heal_s:.1f}"]
