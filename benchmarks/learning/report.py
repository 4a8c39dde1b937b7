"""How a section's result is shown: a table of its figures, and a table for each list of rows in it."""

from __future__ import annotations

from dataclasses import Field, asdict, field, fields, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


def wanted(what: str) -> Any:
    """A figure of a result for which a value was set out to be reached, shown beside it."""
    return field(metadata={"wanted": what})


def show(console: Console, title: str, result: Any) -> None:
    """Prints a result: a frozen dataclass of numbers, texts and tuples of dataclasses."""
    figures = [one for one in fields(result) if not _is_rows(getattr(result, one.name))]
    if figures:
        console.print(_figures(title, result, figures))
    for one in fields(result):
        if _is_rows(getattr(result, one.name)):
            console.print(_rows(f"{title}: {_words(one.name)}", getattr(result, one.name)))


def as_json(result: Any) -> dict[str, Any]:
    """The figures by name; four significant digits are all that a run repeats."""
    values: dict[str, Any] = _rounded(asdict(result))
    return values


def _figures(title: str, result: Any, figures: list[Field[Any]]) -> Table:
    table = Table("figure", "value", "wanted", title=title, title_justify="left")
    for one in figures:
        value = getattr(result, one.name)
        table.add_row(_words(one.name), _text(value), one.metadata.get("wanted", ""))
    return table


def _rows(title: str, rows: tuple[Any, ...]) -> Table:
    table = Table(*(_words(one.name) for one in fields(rows[0])), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(getattr(row, one.name)) for one in fields(row)))
    return table


def _is_rows(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and is_dataclass(value[0])


def _words(name: str) -> str:
    return name.replace("_", " ")


def _text(value: Any) -> str:
    return str(_rounded(value))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
