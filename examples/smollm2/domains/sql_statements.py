"""Random requests in words, each with its SQL statement in one canonical form."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examples.smollm2.domains.sql_tables import TABLES, VALUES, Column
from examples.smollm2.domains.sql_wordings import WORDINGS, Wordings
from examples.smollm2.question import Part

ID = Column("id", "")
MAX_NUMBER = 500


@dataclass(frozen=True)
class Table:
    """A table as a question shows it: some columns of a known table, in their usual order."""

    name: str
    columns: tuple[Column, ...]

    @property
    def numbers(self) -> list[str]:
        return [column.name for column in self.columns if column.is_number]

    @property
    def texts(self) -> list[Column]:
        return [column for column in self.columns if not column.is_number]

    def written(self, rng: random.Random) -> str:
        """The table in one of the usual notations."""
        names = ", ".join(["id", *(column.name for column in self.columns)])
        typed = ", ".join(
            f"{column.name} {'INTEGER' if column.is_number else 'TEXT'}" for column in (ID, *self.columns)
        )
        writings = (
            *(f"{self.name}({names})", f"{self.name} ({names})", f"{self.name} with the columns {names}"),
            f"CREATE TABLE {self.name} ({typed})",
        )
        return rng.choice(writings)


def draw_table(rng: random.Random, part: Part) -> Table:
    """A table of the part, with two to all of its columns, at least one of them of each kind."""
    name = rng.choice(list(TABLES[part]))
    known = TABLES[part][name]
    texts = [column for column in known if not column.is_number]
    numbers = [column for column in known if column.is_number]
    shown = {
        *rng.sample(texts, rng.randint(1, len(texts))),
        *rng.sample(numbers, rng.randint(1, len(numbers))),
    }
    return Table(name, tuple(column for column in known if column in shown))


def same_table(schema: str, tables: Mapping[str, tuple[Column, ...]]) -> Table:
    """The table whose notation is `schema`."""
    words = schema.replace("(", " ").replace(")", " ").replace(",", " ").split()
    name = next(word for word in words if word in tables)
    return Table(name, tuple(column for column in tables[name] if column.name in words))


def draw_statement(table: Table, rng: random.Random, part: Part) -> tuple[str, str]:
    """A request in the words of the part, and its statement."""
    request, statement = rng.choice(_KINDS)(_Draw(table, rng, WORDINGS[part], VALUES[part]))
    return request[0].upper() + request[1:], statement


@dataclass(frozen=True)
class _Draw:
    """What every kind of request is made from."""

    table: Table
    rng: random.Random
    wordings: Wordings
    values: Mapping[str, tuple[str, ...]]

    def say(self, kind: str, **slots: str) -> str:
        return self.rng.choice(self.wordings[kind]).format(t=self.table.name, **slots)

    def number(self) -> str:
        return self.rng.choice(self.table.numbers)

    def text(self) -> Column:
        return self.rng.choice(self.table.texts)

    def filter(self, share: float) -> tuple[str, str]:
        """A condition in words and in SQL; with the probability `1 - share`, none."""
        if self.rng.random() >= share:
            return "", ""
        conditions = [self._condition()]
        if self.rng.random() < 0.25:
            conditions.append(self._other_condition(conditions[0]))
        words = " and ".join(words for _, words, _ in conditions)
        return " " + words, " WHERE " + " AND ".join(sql for _, _, sql in conditions)

    def _condition(self) -> tuple[str, str, str]:
        """The column of a condition, its words and its SQL."""
        if self.rng.random() < 0.5:
            column = self.text()
            value = self.rng.choice(self.values[column.kind])
            words = self.say("equal", c=column.name, v=value)
            return column.name, words, f"{column.name} = '{value}'"
        name, value = self.number(), str(self.rng.randint(2, MAX_NUMBER))
        if self.rng.random() < 0.5:
            return name, self.say("greater", c=name, v=value), f"{name} > {value}"
        return name, self.say("less", c=name, v=value), f"{name} < {value}"

    def _other_condition(self, first: tuple[str, str, str]) -> tuple[str, str, str]:
        """A condition on another column: there is always one number and one text."""
        while True:
            condition = self._condition()
            if condition[0] != first[0]:
                return condition


def _count(draw: _Draw) -> tuple[str, str]:
    words, where = draw.filter(0.8)
    return draw.say("count", w=words), f"SELECT COUNT(*) FROM {draw.table.name}{where}"


def _aggregate(draw: _Draw) -> tuple[str, str]:
    function, column = draw.rng.choice(("SUM", "AVG", "MAX", "MIN")), draw.number()
    words, where = draw.filter(0.5)
    return (
        draw.say(function, c=column, w=words),
        f"SELECT {function}({column}) FROM {draw.table.name}{where}",
    )


def _column(draw: _Draw) -> tuple[str, str]:
    column = draw.rng.choice(draw.table.columns).name
    words, where = draw.filter(0.8)
    return draw.say("column", c=column, w=words), f"SELECT {column} FROM {draw.table.name}{where}"


def _rows(draw: _Draw) -> tuple[str, str]:
    words, where = draw.filter(1.0)
    return draw.say("rows", w=words), f"SELECT * FROM {draw.table.name}{where}"


def _top(draw: _Draw) -> tuple[str, str]:
    column, number = draw.number(), str(draw.rng.randint(2, 20))
    return (
        draw.say("top", c=column, n=number),
        f"SELECT * FROM {draw.table.name} ORDER BY {column} DESC LIMIT {number}",
    )


def _count_groups(draw: _Draw) -> tuple[str, str]:
    group = draw.text().name
    return (
        draw.say("count groups", g=group),
        f"SELECT {group}, COUNT(*) FROM {draw.table.name} GROUP BY {group}",
    )


def _aggregate_groups(draw: _Draw) -> tuple[str, str]:
    function, column, group = draw.rng.choice(("SUM", "AVG", "MAX", "MIN")), draw.number(), draw.text().name
    return (
        draw.say(f"{function} groups", c=column, g=group),
        f"SELECT {group}, {function}({column}) FROM {draw.table.name} GROUP BY {group}",
    )


_KINDS: tuple[Callable[[_Draw], tuple[str, str]], ...] = (
    *(_count, _count, _aggregate, _aggregate, _column, _rows, _top, _count_groups, _aggregate_groups),
)
