"""Prints the result of a section: a table of its figures, and a table for each list of rows in it."""

from __future__ import annotations

from dataclasses import Field, asdict, field, fields, is_dataclass
from typing import Any

from rich.console import Console
from rich.table import Table


def target(value: str) -> Any:
    """A figure of a result with a target value, which is printed beside it."""
    return field(metadata={"target": value})


def show(console: Console, title: str, result: Any) -> None:
    """Prints a result: a frozen dataclass of numbers, texts and tuples of dataclasses."""
    figures = [item for item in fields(result) if not _is_rows(getattr(result, item.name))]
    if figures:
        console.print(_figures(title, result, figures))
    for item in fields(result):
        if _is_rows(getattr(result, item.name)):
            console.print(_rows(f"{title}: {_words(item.name)}", getattr(result, item.name)))


def as_json(result: Any) -> dict[str, Any]:
    """The figures by name, with four significant digits: more are not reproducible."""
    values: dict[str, Any] = _rounded(asdict(result))
    return values


def _figures(title: str, result: Any, figures: list[Field[Any]]) -> Table:
    table = Table("figure", "value", "target", title=title, title_justify="left")
    for item in figures:
        value = getattr(result, item.name)
        table.add_row(_words(item.name), _text(value), item.metadata.get("target", ""))
    return table


def _rows(title: str, rows: tuple[Any, ...]) -> Table:
    table = Table(*(_words(item.name) for item in fields(rows[0])), title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_text(getattr(row, item.name)) for item in fields(row)))
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
