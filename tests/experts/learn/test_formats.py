"""Query sets are read in all supported formats; see test_broken_rows.py for what is wrong with them."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experts.errors import DataError
from experts.learn.formats import read_queries
from experts.learn.queries import Query, dataset_digest
from experts.learn.row_formats import parse_judged_answer, parse_row

USER = {"role": "user", "content": "hi"}
CHOICES = ["iron", "gold", "neon"]


def write_lines(path: Any, *rows: Any) -> Any:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def asked(*contents: str) -> tuple[dict[str, str], ...]:
    """Alternating messages of user and assistant."""
    return tuple({"role": "assistant" if i % 2 else "user", "content": c} for i, c in enumerate(contents))


def test_queries_are_read_with_the_written_text_and_their_line_numbers(tmp_path):
    user, answer = {"role": "user", "content": "hi\u2028there"}, {"role": "assistant", "content": "Hello! "}
    path = write_lines(
        tmp_path / "q.jsonl",
        {"messages": [user], "expert": "roman"},
        "",
        {"messages": [user, answer, user, answer], "expert": None},
        {"messages": [user], "expert": "roman", "written": "Hello! "},
    )
    first, second, third = read_queries(path)
    assert first == Query((user,), "roman", place="line 1")
    assert second == Query((user, answer, user), None, response="Hello! ", place="line 3")
    assert third == Query((user,), "roman", "Hello! ", place="line 4")
    assert dataset_digest([first, second]) != dataset_digest([second, first])
    assert dataset_digest([first]) == dataset_digest([replace(first, place="line 9")])


FORMATS = [
    ({"messages": [*asked("two and two?", "4")]}, Query(asked("two and two?"), response="4")),
    ({"messages": [*asked("two?", "2", "and?")]}, Query(asked("two?", "2", "and?"))),
    (
        {"conversations": [{"from": "human", "value": "two?"}, {"from": "gpt", "value": "2"}], "id": "x7"},
        Query(asked("two?"), response="2"),
    ),
    (
        {
            "conversations": [
                {"from": "system", "value": "be brief"},
                {"from": "human", "value": "a"},
                {"from": "gpt", "value": "b"},
                {"from": "observation", "value": "c"},
            ]
        },
        Query(
            ({"role": "system", "content": "be brief"}, *asked("a", "b"), {"role": "tool", "content": "c"})
        ),
    ),
    (
        {"instruction": "Add these.", "input": "2 2", "output": "4"},
        Query(asked("Add these.\n\n2 2"), response="4"),
    ),
    ({"instruction": "Say hi.", "input": "", "output": "hi"}, Query(asked("Say hi."), response="hi")),
    ({"instruction": "Say hi.", "input": None}, Query(asked("Say hi."))),
    (
        {"system": "Be brief.", "history": [["One?", "1"]], "instruction": "Two?", "output": "2"},
        Query(
            (
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "One?"},
                {"role": "assistant", "content": "1"},
                {"role": "user", "content": "Two?"},
            ),
            response="2",
        ),
    ),
]


@pytest.mark.parametrize(("row", "query"), FORMATS)
def test_a_row_means_the_same_on_a_line_and_in_an_array(tmp_path, row, query):
    lines = write_lines(tmp_path / "q.jsonl", row, "", row)
    assert read_queries(lines) == [replace(query, labelled=False, place=f"line {n}") for n in (1, 3)]
    array = write_lines(tmp_path / "q.json", " \n" + json.dumps([row, row], indent=1))
    assert read_queries(array) == [replace(query, labelled=False, place=f"item {n}") for n in (1, 2)]
    array.write_bytes("\ufeff".encode() + array.read_bytes())
    assert len(read_queries(array)) == 2


@pytest.mark.parametrize(("row", "query"), [pair for pair in FORMATS if pair[1].response])
def test_every_format_takes_the_optional_keys(row, query):
    extra = {"expert": "roman", "written": query.response[:1], "answer": "B", "choices": CHOICES, "id": 7}
    expected = replace(
        query,
        expert="roman",
        written=query.response[:1],
        response=query.response[1:],
        answer="B",
        choices=tuple(CHOICES),
        place="line 3",
    )
    assert parse_row(row | extra, "line 3") == expected
    assert parse_row(row | {"expert": None}, "line 3") == replace(query, place="line 3")
    absent = {"written": None, "answer": None, "choices": None}
    assert parse_row(row | absent, "line 3") == replace(query, labelled=False, place="line 3")


@pytest.mark.parametrize(
    ("answer", "choices", "stored"),
    [("B", CHOICES, "B"), ("neon", CHOICES, "C"), ("B", ["B", "A"], "B"), ("C", ["x", "C"], "B")],
)
def test_the_answer_among_choices_is_kept_as_a_letter(answer, choices, stored):
    assert parse_row({"messages": [USER], "answer": answer, "choices": choices}, "line 1").answer == stored


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"text": "hi"}, "no conversation; give one of the keys messages, conversations, instruction"),
        ({"messages": [USER], "instruction": "hi"}, "mixes formats: it has messages and instruction"),
        ({"messages": "hi"}, "'messages' is not a list of messages"),
        ({"messages": ["hi"]}, "'messages': entry 1 is not a JSON object"),
        (
            {"messages": [USER, {"role": ["user"], "content": "x"}]},
            "message 2 has no valid role; use one of system, ",
        ),
        ({"messages": [USER, {"role": "user", "content": None}]}, "'content 2' is not text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "'content 1' holds half of a surrogate"),
        (
            {"conversations": [{"from": "judge", "value": "x"}]},
            "turn 1 has no valid 'from'; use one of human, ",
        ),
        (
            {"conversations": [{"from": ["human"], "value": "x"}]},
            "turn 1 has no valid 'from'; use one of human, ",
        ),
        ({"conversations": [{"from": "human"}]}, "'value 1' is not text"),
        (
            {"conversations": [{"from": "gpt", "value": "x"}]},
            "the conversation has no question, only an answer",
        ),
        ({"instruction": 3}, "'instruction' is not text"),
        ({"instruction": "x", "system": 3}, "'system' is not text"),
        ({"instruction": "x", "history": ["y"]}, "'history' is not a list of"),
        ({"instruction": "x", "history": [["y", 3]]}, "'history' is not text"),
        ({"instruction": "x", "input": ["y"]}, "'input' is not text"),
        ({"instruction": "x", "output": "yes", "written": "no"}, "does not begin with the text of 'written'"),
        ({"messages": [USER], "written": 3}, "'written' is not text"),
        ({"messages": [USER], "answer": 3}, "'answer' is not text"),
        ({"messages": [USER], "answer": " "}, "'answer' is blank"),
        ({"messages": [USER], "choices": CHOICES}, "'choices' without an 'answer'"),
        (
            {"messages": [USER], "choices": ["iron"], "answer": "A"},
            "'choices' is not a list of 2 to 26 texts",
        ),
        ({"messages": [USER], "choices": "iron", "answer": "A"}, "'choices' is not a list of 2 to 26 texts"),
        ({"messages": [USER], "choices": ["iron", 2], "answer": "A"}, "'choice 2' is not text"),
        ({"messages": [USER], "choices": CHOICES, "answer": "D"}, "'D' is neither a letter from A to C nor"),
    ],
)
def test_the_error_for_a_broken_row_names_the_problem(tmp_path, row, complaint):
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps({"messages": [USER]}) + "\n" + json.dumps(row))
    with pytest.raises(DataError, match="1 of 2 .*\n.*line 2: ") as caught:
        read_queries(path)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"\n \n", "holds no queries"),
        (b"[]", "holds no queries"),
        (b"[\xff", "begins as a JSON array, but is not U"),
    ],
)
def test_empty_and_unreadable_files_are_refused(tmp_path, content, complaint):
    path = tmp_path / "q.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path}: {complaint}"):
        read_queries(path)
    with pytest.raises(DataError, match="missing.jsonl: cannot be read"):
        read_queries(tmp_path / "missing.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "messages",
    "conversations",
    "instruction",
    "input",
    "output",
    "expert",
    "written",
    "answer",
    "choices",
]
MESSAGE = st.fixed_dictionaries(
    {},
    optional={key: JSON | st.sampled_from(["user", "human"]) for key in ("role", "content", "from", "value")},
)


@given(
    st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(MESSAGE, max_size=2) | st.just("x"), max_size=4)
)
def test_any_row_becomes_a_query_or_a_one_line_error(row):
    query, complaint = None, ""
    try:
        query = parse_row(row, "line 1")
    except ValueError as error:
        complaint = str(error)
    if query is None:
        assert complaint
        assert "\n" not in complaint
    else:
        assert query.messages
        assert query.labelled == ("expert" in row)


@pytest.mark.parametrize(("better", "expert"), [(True, None), (False, "stop")])
def test_a_judged_answer_is_the_decision_about_it(better: bool, expert: str | None):
    row = {"instruction": "q", "output": "a", "system": "s", "expert": "chem", "better": better}
    query = parse_judged_answer(row, "line 3", "{0}: {1}".format, "stop")
    assert [(each["role"], each["content"]) for each in query.messages] == [("system", "s"), ("user", "q: a")]
    assert (query.expert, query.turn, query.labelled, query.place) == (expert, "", True, "line 3")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "q", "better": True}, "has no answer"),
        ({"instruction": "q", "output": "a", "better": 1}, "'better' is not true or false"),
        ({"instruction": "q", "output": "a"}, "'better' is not true or false"),
        ({"better": True}, "no conversation"),
        ([], "not a JSON object"),
    ],
)
def test_a_row_that_says_nothing_of_an_answer_is_refused(row: Any, problem: str):
    with pytest.raises(ValueError, match=problem):
        parse_judged_answer(row, "line 1", "{0}: {1}".format, "stop")
