"""The results of the scenarios: figures and broken promises."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table


class Report(Protocol):
    """A frozen dataclass of figures."""

    def broken(self) -> list[str]:
        """The promises that were not kept, one line each. Empty: all were kept."""
        ...


@dataclass(frozen=True)
class ScenarioFailed:
    """A scenario that did not run to its end."""

    error: str

    def broken(self) -> list[str]:
        return [self.error]


@dataclass(frozen=True)
class ScenarioResult:
    """`took_s`: the duration of the scenario with preparation and recovery."""

    name: str
    report: Report
    took_s: float


def as_json(results: Sequence[ScenarioResult]) -> dict[str, Any]:
    return {
        result.name: {
            **_figures(result.report),
            "broken": result.report.broken(),
            "took_s": round(result.took_s, 1),
        }
        for result in results
    }


def show(console: Console, results: Sequence[ScenarioResult]) -> None:
    table = Table("fault", "took, s", "figure", "value", title="Faults")
    for result in results:
        first, *rest = _figures(result.report).items()
        table.add_row(result.name, f"{result.took_s:.0f}", first[0], str(first[1]))
        for name, value in rest:
            table.add_row("", "", name, str(value))
        for promise in result.report.broken():
            table.add_row("", "", "[red]BROKEN[/red]", promise)
        table.add_section()
    console.print(table)


def _figures(report: Report) -> dict[str, Any]:
    assert is_dataclass(report)
    return {name: _rounded(value) for name, value in asdict(report).items()}


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return value
