"""Reads query sets: JSONL or one JSON array, with rows in any format of row_formats.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from experts.errors import DataError
from experts.learn.queries import Query, broken_rows, listed_rows
from experts.learn.row_formats import parse_row

# What makes a query unusable; None: nothing.
Check = Callable[[Query], str | None]
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_queries(
    path: Path | str,
    *,
    parse: Callable[[Any, str], Query] = parse_row,
    check: Check = lambda query: None,
    skip_broken: bool = False,
    warn: Callable[[str], None] = lambda line: None,
) -> list[Query]:
    """Reads a file with one JSON object per line, or one JSON array of them; see `parse_row` for their keys.

    `parse` makes the query of a row and its place, in place of `parse_row`. A row is broken if it is not a
    query, or `check` finds it unusable. With `skip_broken`, the queries are those of the other rows. `warn`
    is called with a line for each skipped row and for what else is odd.
    Raises DataError for a missing or empty file, and for broken rows: all of them, with their line numbers.
    """
    text = _read(Path(path))
    rows = list(_items(text, path) if text.lstrip().startswith("[") else _lines(text))
    queries, problems = [], []
    for place, row in rows:
        try:
            queries.append(_query(row, place, parse, check))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems and not (skip_broken and queries):
        remedy = "correct or remove them, or go on without them by --skip-broken"
        raise DataError(broken_rows(path, problems, len(rows), remedy))
    if not queries:
        raise DataError(f"{path}: holds no queries; write one JSON object per line")
    for line in [*_skipped(path, problems, len(rows)), *_repeated_choices(path, queries)]:
        warn(line)
    return queries


def _query(row: Any, place: str, parse: Callable[[Any, str], Query], check: Check) -> Query:
    """Raises ValueError for a broken row."""
    query = parse(_parsed(row) if isinstance(row, str) else row, place)
    if problem := check(query):
        raise ValueError(problem)
    return query


def _read(path: Path) -> str:
    """Bytes that are not UTF-8 become surrogates, so that only their rows are broken."""
    try:
        # Editors on Windows put a byte order mark before the text.
        return path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; give JSON or JSONL in UTF-8") from error


def _lines(text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also splits at U+2028 and the like, which JSON strings may contain unescaped.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", line


def _items(text: str, path: object) -> Iterator[tuple[str, Any]]:
    try:
        items = _parsed(text)
    except ValueError as error:
        raise DataError(
            f"{path}: begins as a JSON array, but is {error}; close the array or write one object per line"
        ) from error
    for number, item in enumerate(items, 1):
        # None, because the caller takes a string for an unparsed line.
        yield f"item {number}", None if isinstance(item, str) else item


def _parsed(text: str) -> Any:
    if _SURROGATE.search(text):
        raise ValueError("not UTF-8; convert it")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error


def _skipped(path: object, problems: Sequence[str], num_rows: int) -> list[str]:
    if not problems:
        return []
    return [*listed_rows(path, problems), f"{path}: {len(problems)} of {num_rows} rows are broken; skipped"]


def _repeated_choices(path: object, queries: Sequence[Query]) -> list[str]:
    """Public benchmarks have such rows, and they can be judged: equal texts are equally right."""
    repeating = [query for query in queries if len(set(query.choices)) < len(query.choices)]
    return listed_rows(path, [f"{query.place}: 'choices' holds the same text twice" for query in repeating])
