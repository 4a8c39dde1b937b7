import random
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.smollm2.domains.sql import sample
from examples.smollm2.domains.sql_tables import TABLES, VALUES
from examples.smollm2.domains.sql_wordings import WORDINGS
from examples.smollm2.question import PARTS, Question, is_right
from tests.examples.smollm2.strategies import RANDOM

SCHEMA = "orders(id, customer, city, amount)"


def ask(answer):
    return Question("sql", ({"role": "user", "content": f"Write SQL for {SCHEMA}: …"},), answer)


COUNT = ask("SELECT COUNT(*) FROM orders WHERE city = 'Paris' AND amount > 50")
TOP = ask("SELECT * FROM orders ORDER BY amount DESC LIMIT 3")


def test_no_table_value_or_wording_is_in_both_parts():
    assert TABLES["train"].keys().isdisjoint(TABLES["held_out"])
    for kind in VALUES["train"]:
        assert set(VALUES["train"][kind]).isdisjoint(VALUES["held_out"][kind])
    assert WORDINGS["train"].keys() == WORDINGS["held_out"].keys()
    for kind in WORDINGS["train"]:
        assert set(WORDINGS["train"][kind]).isdisjoint(WORDINGS["held_out"][kind])


@pytest.mark.parametrize("part", PARTS)
def test_tables_have_texts_and_numbers_of_known_kinds(part):
    for columns in TABLES[part].values():
        assert {column.is_number for column in columns} == {True, False}
        assert {column.kind for column in columns} - {""} <= VALUES[part].keys()


@pytest.mark.parametrize("part", PARTS)
def test_every_statement_names_only_what_the_conversation_shows(part):
    rng = random.Random(part)
    for _ in range(500):
        question = sample(rng, part)
        shown = " ".join(message["content"] for message in question.messages)
        for name in re.findall(r"\b[a-z_]+\b|'\w+'|\d+", question.answer):
            assert name.strip("'") in shown


@pytest.mark.parametrize(
    "text",
    [
        "select count(id) from orders where amount > 50 and city = 'Paris';",
        "SELECT COUNT(*)\nFROM orders\nWHERE amount >= 51 AND city IN ('Paris')",
        "```sql\nSELECT COUNT(*) FROM orders WHERE city = 'Paris' AND amount > 50\n```",
    ],
)
def test_another_statement_with_the_same_rows_is_right(text):
    assert is_right(COUNT, text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT COUNT(*) FROM orders WHERE city = 'Paris' AND amount >= 50",
        "SELECT COUNT(*) FROM orders WHERE city = 'Paris' AND amount > 51",
        "SELECT COUNT(*) FROM orders WHERE city = 'Paris' OR amount > 50",
        "SELECT COUNT(*) FROM orders WHERE city = 'Rome' AND amount > 50",
        "SELECT COUNT(*) FROM orders WHERE amount > 50",
        "SELECT COUNT(*) FROM order WHERE city = 'Paris' AND amount > 50",
        "SELECT COUNT(*) FROM orders WHERE city = Paris AND amount > 50",
        "The query is SELECT COUNT(*) FROM orders",
    ],
)
def test_another_number_of_rows_is_wrong(text):
    assert not is_right(COUNT, text)


def test_the_order_counts_if_it_was_asked_for():
    assert is_right(TOP, "SELECT id, customer, city, amount FROM orders ORDER BY -amount LIMIT 3")
    assert not is_right(TOP, "SELECT * FROM orders ORDER BY amount LIMIT 3")
    assert not is_right(
        TOP, "SELECT * FROM (SELECT * FROM orders ORDER BY amount DESC LIMIT 3) ORDER BY amount"
    )
    assert is_right(ask("SELECT city FROM orders"), "SELECT city FROM orders ORDER BY amount")


def test_a_hidden_column_is_unknown():
    # The table of the domain has a quantity, but this conversation does not show it.
    assert not is_right(ask("SELECT COUNT(*) FROM orders"), "SELECT COUNT(quantity) FROM orders")


@pytest.mark.parametrize(
    "text",
    [
        "DROP TABLE orders",
        "DELETE FROM orders; SELECT COUNT(*) FROM orders",
        "PRAGMA table_info(orders)",
        "ATTACH 'x.db' AS x",
        "SELECT length(zeroblob(1000000000))",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n",
        "SELECT COUNT(*) FROM orders a, orders b, orders c, orders d, orders e, orders f",
        "SELECT " + "(" * 400,
    ],
)
def test_a_statement_that_writes_or_takes_long_is_wrong(text):
    began_s = time.monotonic()
    assert not is_right(COUNT, text)
    assert time.monotonic() - began_s < 5


@given(RANDOM, st.sampled_from(PARTS))
def test_another_limit_or_value_is_wrong(rng, part):
    question = sample(rng, part)
    for old, new in (
        (r"LIMIT \d+", "LIMIT 1"),
        (r"= '\w+'", "= 'x'"),
        (r"> (\d+)", r"> \1 + 1"),
        ("SUM", "AVG"),
    ):
        # A second condition may leave out the row that tells two limits apart.
        if re.search(old, question.answer) and " AND " not in question.answer:
            changed = re.sub(old, new, question.answer)
            agrees = "MAX(" in changed or "MIN(" in changed or "COUNT(*)" in changed and "= '" in changed
            assert agrees or not is_right(question, changed)
