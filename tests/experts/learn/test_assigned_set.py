"""Assigned queries are saved with their scores, and read back unchanged."""

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.learn.assign import META, AssignedSet, Assignment
from experts.learn.formats import read_queries
from experts.learn.queries import Query

GOOD = Query(({"role": "user", "content": "hi"},), response="yes")
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FILLED = TEXT.filter(str.strip)
MESSAGES = st.lists(
    st.builds(
        lambda role, content: {"role": role, "content": content}, st.sampled_from(["user", "assistant"]), TEXT
    ),
    min_size=1,
    max_size=3,
).map(tuple)
CHOSEN = st.tuples(st.sampled_from("AB"), st.lists(TEXT, min_size=2, max_size=4, unique=True).map(tuple))
LABELLED = st.builds(
    lambda messages, expert, written, response, judged: Query(messages, expert, written, response, *judged),
    MESSAGES,
    st.none() | st.just("roman"),
    TEXT,
    TEXT,
    CHOSEN | st.tuples(st.none() | FILLED, st.just(())),
)
SCORES = st.dictionaries(st.sampled_from([META, "roman"]), st.floats(0, allow_nan=False), min_size=1)
REASON = st.none() | st.builds(Assignment, st.none(), SCORES, st.floats(0, 9))


@given(st.lists(st.tuples(LABELLED, REASON), min_size=1, max_size=4))
def test_saved_queries_are_read_back_with_their_scores(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("assigned") / "deeper" / "assigned.jsonl"
    queries, assignments = [query for query, _ in pairs], [reason for _, reason in pairs]
    AssignedSet(queries, assignments).save(path)
    assert [replace(query, place="") for query in read_queries(path)] == [
        replace(query, place="") for query in queries
    ]
    assert [file.name for file in path.parent.iterdir()] == ["assigned.jsonl"]
    rows: list[dict[str, Any]] = [json.loads(line) for line in path.read_text("utf-8").split("\n")[:-1]]
    for row, reason in zip(rows, assignments, strict=True):
        if reason is None:
            assert not {"nll_per_byte", "margin"} & row.keys()
            continue
        assert row["margin"] == reason.margin
        for name, score in reason.nll_per_byte.items():
            saved = row["nll_per_byte"][name]
            assert saved is None if math.isinf(score) else saved == pytest.approx(score, abs=5e-5, rel=1e-9)


def test_a_file_that_cannot_be_written_is_left_as_it_was(tmp_path):
    path = tmp_path / "assigned.jsonl"
    AssignedSet([GOOD], [None]).save(path)
    before = path.read_bytes()
    broken = replace(GOOD, response="\ud800")
    with pytest.raises(UnicodeEncodeError):
        AssignedSet([GOOD, broken], [None, None]).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
