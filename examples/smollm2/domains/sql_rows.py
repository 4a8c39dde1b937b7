"""Compares SQL statements by the rows that they find in small random tables."""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing

from examples.smollm2.domains.sql_tables import Column

NUM_TABLES = 3
NUM_ROWS = 40
MAX_FOUND = 1000
MAX_CHARACTERS = 500
# A statement over so few rows needs far fewer.
MAX_INSTRUCTIONS = 200_000
_INSTRUCTIONS_PER_CHECK = 1000
_FUNCTIONS = {"count", "sum", "avg", "max", "min", "total", "round", "lower", "upper", "coalesce", "ifnull"}
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ}

# A condition in its canonical form: the column, the sign, and a text or a number.
_CONDITION = re.compile(r"(\w+) ([=<>]) (?:'([^']*)'|(\d+))")

_Row = dict[str, object]
_Rows = list[tuple[object, ...]]


def same_rows(name: str, columns: Sequence[Column], right: str, given: str) -> bool:
    """Whether two SELECT statements find the same rows of a table in all of some random fillings.

    The order counts if the right statement sorts. A statement that sqlite refuses, that does something else
    than select or that takes too long finds nothing.
    """
    if len(given) > MAX_CHARACTERS:
        return False
    for seed in range(NUM_TABLES):
        with closing(_filled(name, columns, right, seed)) as database:
            wanted, found = _found(database, right), _found(database, given)
        assert wanted is not None, f"sqlite refuses the right answer: {right}"
        if found is None or not _equal(wanted, found, "ORDER BY" in right):
            return False
    return True


def _filled(name: str, columns: Sequence[Column], right: str, seed: int) -> sqlite3.Connection:
    """A table with random rows, and rows at the limits of the right statement's conditions."""
    rng = random.Random(f"{seed} {right}")
    at_limits = _rows_at_limits(right)
    values = [list(range(1, NUM_ROWS + 1)), *(_values(column, at_limits, rng) for column in columns)]
    rows = list(zip(*values, strict=True))
    rng.shuffle(rows)
    database = sqlite3.connect(":memory:")
    typed = ", ".join(f'"{column.name}" {"INTEGER" if column.is_number else "TEXT"}' for column in columns)
    database.execute(f'CREATE TABLE "{name}" (id INTEGER, {typed})')
    database.executemany(f'INSERT INTO "{name}" VALUES ({", ".join("?" * len(values))})', rows)
    return database


def _rows_at_limits(right: str) -> list[_Row]:
    """Rows with the number of a condition and its neighbours, which fulfil all other conditions.

    They tell > from >=, and 50 from 51.
    """
    conditions = _CONDITION.findall(right)
    rows: list[_Row] = [{column: text for column, _, text, _ in conditions if text}]
    for column, _, _, number in conditions:
        for step in (-1, 0, 1) if number else ():
            fulfilled = (_fulfilling(condition, 2 + len(rows)) for condition in conditions)
            rows.append({**dict(fulfilled), column: int(number) + step})
    return rows


def _fulfilling(condition: tuple[str, str, str, str], distance: int) -> tuple[str, object]:
    """The column of a condition with a value; a number is that far from the limit."""
    column, sign, text, number = condition
    if text:
        return column, text
    return column, int(number) + (distance if sign == ">" else -distance)


def _values(column: Column, given: Sequence[_Row], rng: random.Random) -> list[object]:
    """A value for every row, some of them given. Numbers differ, so that no two rows tie."""
    fixed = [row.get(column.name) for row in given]
    fixed += [None] * (NUM_ROWS - len(fixed))
    if column.is_number:
        others: list[object] = list(rng.sample([n for n in range(1, 800) if n not in fixed], NUM_ROWS))
    else:
        texts = [*sorted({str(text) for text in fixed if text}), "Other", "other", "Another", "None"]
        others = [rng.choice(texts) for _ in range(NUM_ROWS)]
    return [other if value is None else value for value, other in zip(fixed, others, strict=True)]


def _found(database: sqlite3.Connection, statement: str) -> _Rows | None:
    """The rows that a statement finds, or None if it is refused."""
    left = MAX_INSTRUCTIONS // _INSTRUCTIONS_PER_CHECK

    def stops() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    database.set_authorizer(_authorize)
    database.set_progress_handler(stops, _INSTRUCTIONS_PER_CHECK)
    try:
        return database.execute(statement).fetchmany(MAX_FOUND)
    # ValueError: text that is no SQL at all, such as one with a null character or half a surrogate pair.
    except (sqlite3.Error, sqlite3.Warning, ValueError):
        return None


def _authorize(action: int, _table: str | None, function: str | None, *_rest: str | None) -> int:
    """Reading and plain functions are allowed; others could write, or use much memory."""
    is_plain = action == sqlite3.SQLITE_FUNCTION and (function or "").lower() in _FUNCTIONS
    return sqlite3.SQLITE_OK if action in _ALLOWED or is_plain else sqlite3.SQLITE_DENY


def _equal(wanted: _Rows, found: _Rows, ordered: bool) -> bool:
    wanted, found = _rounded(wanted), _rounded(found)
    return wanted == found if ordered else sorted(wanted, key=repr) == sorted(found, key=repr)


def _rounded(rows: _Rows) -> _Rows:
    return [tuple(round(value, 6) if isinstance(value, float) else value for value in row) for row in rows]
