"""A request in words and a table to one SQL statement."""

from __future__ import annotations

import random
import re

from examples.smollm2.domains.sql_rows import same_rows
from examples.smollm2.domains.sql_statements import draw_statement, draw_table, same_table
from examples.smollm2.domains.sql_tables import TABLES, Column
from examples.smollm2.phrasing import Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question

PHRASINGS = Phrasings(
    {
        "train": (
            "Write an SQL query: {request}\nTable: {schema}",
            "Given the table {schema}, write SQL for: {request}",
            "{schema}\n{request}\nSQL:",
            "Schema: {schema}\nQuestion: {request}\nSQL:",
            "sql for this pls: {request} ({schema})",
            "I have a table {schema}. {request} Answer with an SQL statement.",
            "Translate to SQL: {request}\nUse {schema}.",
            "{request} Write the SELECT statement for {schema}",
            "Which SQL query answers this? {request}\n\n{schema}",
            "Database: {schema}\nRequest: {request}\nGive me only the query.",
            "text to sql: {request} | {schema}",
            "Turn this question into SQL.\nQuestion: {request}\nSchema: {schema}",
            "Please write a SELECT for the following. {request} The table is {schema}",
            "My table is {schema}. How do I ask SQL this: {request}",
            "Convert the request to a query over {schema}: {request}",
            "Query {schema}: {request}",
            "How would I write this in SQL? {request}\n{schema}",
            "As a database developer, write the statement. {schema}. {request}",
            "need a query, table is {schema}, question: {request}",
            "SQLite table {schema}. {request} Only SQL, no explanation.",
            "Here is my schema:\n{schema}\n\nI want to know: {request}",
            "Write one SELECT statement.\n{schema}\n{request}",
            "Can you give me the SQL? {request} We have {schema}",
            "For a report I need the SQL behind this: {request}\nThe data is in {schema}",
            "SELECT statement wanted. {request} Columns: {schema}",
            "Express in SQL, using {schema}: {request}",
            "Our analysts ask: {request} What query do I run on {schema}?",
            "Formulate an SQL query for the relation {schema}. {request}",
            "{request}\n\n(sql, {schema})",
            "The database contains {schema}. Provide the SQL statement for: {request}",
            "-- {schema}\n-- {request}\n",
            "Write down the query I should send to the database. {request} It has {schema}",
            "sql query? {request} {schema}",
            "Help me query my database: {schema}. {request}",
            "Generate SQL.\nTable: {schema}\nTask: {request}",
            "How can I get this out of my database with SQL: {request} ({schema})",
            "Given {schema}: {request} Reply with SQL.",
            "Task: natural language to SQL.\n{schema}\n{request}",
            "Kindly compose the SQL query that satisfies this request. {request} Schema: {schema}",
            "I'm stuck on the SQL for this: {request} My table: {schema}",
            "In SQL: {request} Table {schema}",
            "to_sql('{request}', '{schema}')",
        ),
        "held_out": (
            "What do I type into the database console to learn this? {request}\nIt stores {schema}",
            "nl2sql | {schema} | {request}",
            "Using SQL, retrieve the answer from {schema}: {request}",
            "hey, sql guru! {request} (got {schema})",
            "Consider the relation {schema}. State an SQL expression for this: {request}",
            "boss asks: {request} what's the sql, our table: {schema}",
            "Exercise 4. The table {schema} is given. {request} Solve it in SQL.",
            "Put this into a SELECT: {request}\nAvailable: {schema}",
            "You are connected to a database with {schema}. Send the query for: {request}",
            "Draft the SQL. {request}\nStructure of the data: {schema}",
            "Out of {schema}, by means of SQL: {request}",
            "{request}\nWhat is the matching SELECT on {schema}?",
            "The dashboard should show this: {request} It reads from {schema}; which SQL feeds it?",
            "Would you be able to phrase this as a database query? {request} {schema}",
            "Question for the database: {request}\nLayout: {schema}\nQuery:",
            "one-liner in SQL, {schema}, {request}",
            "A student must query {schema}. The assignment reads: {request} Show the solution in SQL.",
        ),
    },
    {
        "train": (
            *("And now: {request}", "{request}", "next: {request}", "Same table: {request}"),
            *("Thanks! {request}", "And this? {request}", "Now this one: {request}"),
        ),
        "held_out": (
            *("Then: {request}", "ok and {request}", "One more on that table: {request}"),
            *("Great, now {request}", "Likewise: {request}"),
        ),
    },
)
_FENCE = re.compile(r"\A```(?:sql)?\n(.*?)\n?```\Z", re.DOTALL | re.IGNORECASE)
_FROM = re.compile(r" FROM (\w+)")


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. Tables, values and wordings of the requests are all of that part alone."""

    def draw(rng: random.Random, part: Part, before: Exercise | None) -> Exercise:
        table = same_table(before.slots["schema"], TABLES[part]) if before else draw_table(rng, part)
        request, statement = draw_statement(table, rng, part)
        schema = before.slots["schema"] if before else table.written(rng)
        return Exercise({"request": request, "schema": schema}, statement)

    return converse("sql", PHRASINGS, draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the text is a SELECT statement that finds the same rows as the right one."""
    statement = text.strip()
    if fenced := _FENCE.match(statement):
        statement = fenced[1]
    return same_rows(*_table(question), question.answer, statement)


def _table(question: Question) -> tuple[str, tuple[Column, ...]]:
    """The table of the right answer, with the columns that the conversation names."""
    match = _FROM.search(question.answer)
    assert match is not None, "every right answer reads from one table"
    known = next(tables[match[1]] for tables in TABLES.values() if match[1] in tables)
    words = set(re.findall(r"\w+", " ".join(message["content"] for message in question.messages)))
    return match[1], tuple(column for column in known if column.name in words)
