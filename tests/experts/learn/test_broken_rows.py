"""Broken rows of a query set are all listed, never dropped unasked; odd ones are named in a warning."""

import json
from pathlib import Path
from typing import Any

import pytest

from experts.errors import DataError
from experts.learn.formats import read_queries
from experts.learn.queries import Query

USER = {"role": "user", "content": "hi"}
GOOD = {"messages": [USER], "expert": "roman"}


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return path


def test_all_broken_rows_are_listed_by_number_on_lines_of_their_own(tmp_path):
    rows = [
        GOOD,
        "{",
        "[]",
        {"messages": [USER], "expert": 3},
        {"messages": [USER], "expert": "No Name"},
        {"messages": [], "expert": None},
        {"messages": [{"role": "judge", "content": "x"}], "expert": None},
        {"messages": [{"role": "user", "content": 3}], "expert": None},
        {"messages": [{"role": "assistant", "content": "x"}], "expert": None},
    ]
    path = write_lines(tmp_path / "q.jsonl", *rows)
    with pytest.raises(DataError) as caught:
        read_queries(path)
    first, *others = str(caught.value).splitlines()
    assert (
        first
        == f"{path}: 8 of 9 rows are broken; correct or remove them, or go on without them by --skip-broken"
    )
    assert [line.split(": ")[:2] for line in others] == [
        [str(path), f"line {number}"] for number in range(2, 10)
    ]
    assert others[0].startswith(f"{path}: line 2: not JSON")
    assert others[2].startswith(f"{path}: line 4: expert 3 is not a valid expert name")


def test_of_very_many_broken_rows_the_rest_is_counted(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", GOOD, *["{"] * 25)
    with pytest.raises(DataError) as caught:
        read_queries(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == f"{path}: … and 5 more"


def test_broken_items_of_an_array_are_listed_by_number(tmp_path):
    path = write_lines(tmp_path / "q.json", [{"messages": [USER]}, '{"messages": []}', 3, {"text": "hi"}])
    with pytest.raises(DataError, match=r"(?s)3 of 4 .*item 2: not a JSON object.*item 3: .*item 4: no conv"):
        read_queries(path)
    with pytest.raises(DataError, match=r"q\.json: begins as a JSON array, but is not JSON .*line 1 column"):
        read_queries(write_lines(path, '[{"messages"'))
    with pytest.raises(DataError, match="begins as a JSON array, but is not JSON"):
        read_queries(write_lines(path, "[" * 100_000))


def test_a_row_that_is_not_utf_8_is_broken_and_no_other(tmp_path):
    path = tmp_path / "q.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + json.dumps(GOOD).encode().replace(b"hi", b"\xff"))
    with pytest.raises(DataError, match=r"(?s)1 of 2 rows are broken.*line 2: not UTF-8; convert it"):
        read_queries(path)
    assert len(read_queries(path, skip_broken=True)) == 1


def test_skipped_rows_are_listed_and_counted_in_warnings(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", GOOD, "{", GOOD, {"text": "hi"})
    warnings: list[str] = []
    queries = read_queries(path, skip_broken=True, warn=warnings.append)
    assert [query.place for query in queries] == ["line 1", "line 3"]
    assert [warning.split(": ")[1] for warning in warnings[:2]] == ["line 2", "line 4"]
    assert warnings[2:] == [f"{path}: 2 of 4 rows are broken; skipped"]


def test_a_file_of_broken_rows_alone_is_refused_even_if_they_may_be_skipped(tmp_path):
    with pytest.raises(DataError, match="2 of 2 rows are broken"):
        read_queries(write_lines(tmp_path / "q.jsonl", "{", "{"), skip_broken=True)


def test_rows_that_a_check_finds_unusable_are_listed_with_the_others(tmp_path):
    path = write_lines(tmp_path / "q.jsonl", GOOD, "{", {"messages": [USER], "expert": "law"})

    def check(query: Query) -> str | None:
        return "is not welcome" if query.expert == "law" else None

    with pytest.raises(DataError, match=r"(?s)2 of 3 rows.*line 2: not JSON.*line 3: is not welcome"):
        read_queries(path, check=check)
    assert [query.expert for query in read_queries(path, check=check, skip_broken=True)] == ["roman"]


def test_choices_that_repeat_a_text_are_a_warning_and_no_error(tmp_path):
    row = {"messages": [USER], "choices": ["iron", "gold", "iron"], "answer": "iron"}
    path = write_lines(tmp_path / "q.jsonl", GOOD, row)
    warnings: list[str] = []
    queries = read_queries(path, warn=warnings.append)
    assert (queries[1].choices, queries[1].answer) == (("iron", "gold", "iron"), "A")
    assert warnings == [f"{path}: line 2: 'choices' holds the same text twice"]
