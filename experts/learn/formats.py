"""Reading query sets as people have them: JSONL or one JSON array, with rows in any format of rows.py."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experts.errors import DataError
from experts.learn.queries import Query, broken_lines
from experts.learn.rows import parse_row


def read_queries(path: Path | str) -> list[Query]:
    """Reads one JSON object a line, or all of them in one JSON array; see `parse_row` for what they hold.

    Raises DataError for a missing or empty file, and for broken rows, giving their numbers and how many.
    """
    text = _read(Path(path))
    rows = list(_items(text, path) if text.lstrip().startswith("[") else _lines(text))
    queries, problems = [], []
    for place, row in rows:
        try:
            queries.append(parse_row(_parsed(row) if isinstance(row, str) else row, place))
        except ValueError as error:
            problems.append(f"{place}: {error}")
    if problems:
        raise DataError(broken_lines(path, problems, len(rows)))
    if not queries:
        raise DataError(f"{path}: holds no queries; write one JSON object a line")
    return queries


def _read(path: Path) -> str:
    try:
        # Editors on Windows put a byte order mark before the text.
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}; give JSON or JSONL in UTF-8") from error


def _lines(text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): it also cuts at U+2028 and the like, which JSON strings may hold as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"line {number}", line


def _items(text: str, path: object) -> Iterator[tuple[str, Any]]:
    try:
        items = _parsed(text)
    except ValueError as error:
        raise DataError(
            f"{path}: begins as a JSON array, but is {error}; close the array or write one object a line"
        ) from error
    for number, item in enumerate(items, 1):
        # A string would pass for an unparsed line.
        yield f"item {number}", None if isinstance(item, str) else item


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not JSON ({error})") from error
