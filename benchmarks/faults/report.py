"""What a fault showed: figures, and the promises that were broken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table


class Report(Protocol):
    """A frozen dataclass of figures."""

    def broken(self) -> list[str]:
        """The promises that were not kept, one line each; empty when all is well."""
        ...


@dataclass(frozen=True)
class Failed:
    """Of a fault that was not shown to its end."""

    error: str

    def broken(self) -> list[str]:
        return [self.error]


@dataclass(frozen=True)
class Shown:
    """`took_s`: the scenario with what it needed to prepare and to recover."""

    name: str
    report: Report
    took_s: float


def as_json(shown: Sequence[Shown]) -> dict[str, Any]:
    return {
        one.name: {**_figures(one.report), "broken": one.report.broken(), "took_s": round(one.took_s, 1)}
        for one in shown
    }


def show(console: Console, shown: Sequence[Shown]) -> None:
    table = Table("fault", "took, s", "figure", "value", title="Faults")
    for one in shown:
        first, *rest = _figures(one.report).items()
        table.add_row(one.name, f"{one.took_s:.0f}", first[0], str(first[1]))
        for name, value in rest:
            table.add_row("", "", name, str(value))
        for promise in one.report.broken():
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
        return {key: _rounded(one) for key, one in value.items()}
    return value
