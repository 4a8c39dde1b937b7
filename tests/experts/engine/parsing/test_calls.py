"""Tool calls: every format gives the calls that were written, the same however the answer is cut."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.engine.parsing.registry import TOOL_PARSERS
from tests.experts.engine.parsing.answers import CALLS, WRITERS, Call, Joined, parse, parser

ALIASES = {"glm47", "granite4", "llama4_json", "qwen3_json", "qwen3_xml"}
UNMARKED = ("llama3_json", "pythonic")  # a call begins at the beginning of the answer only
DECLARED = (
    "glm45",
    "minimax_m2",
    "qwen3_coder",
    "seed_oss",
)  # the tool's schema gives the types of arguments
formats = pytest.mark.parametrize("format_", WRITERS)


def parser_name(format_: str) -> str:
    return format_.split()[0]


def parsed(format_: str, *pieces: str) -> Joined:
    return parse(parser(parser_name(format_)), pieces)


def test_every_parser_has_examples():
    assert {*map(parser_name, WRITERS), *ALIASES, "openai"} == set(TOOL_PARSERS)


@formats
@pytest.mark.parametrize("example", CALLS)
def test_calls_have_the_names_and_arguments_that_were_written(format_, example):
    text = WRITERS[format_](CALLS[example])
    answer = parsed(format_, text)
    assert (answer.values, answer.text) == (CALLS[example], "")
    assert parsed(format_, *text) == answer


@formats
def test_text_around_calls_is_kept(format_):
    before = "" if format_ in UNMARKED else "I look <it> up [now]:\n\n"
    answer = parsed(format_, before + WRITERS[format_](CALLS["one"]) + "\n\nThat was it")
    assert answer.values == CALLS["one"]
    assert answer.text == before + "\n\nThat was it"


@formats
@pytest.mark.parametrize(
    "text",
    ["", " \n", "x", "{", "[1](http://x)", "[TOOL", '{"name": "x"}', "a < b", "[now", "functools.wraps"],
)
def test_an_answer_without_calls_is_text(format_, text):
    assert parsed(format_, text) == Joined(text)


@formats
def test_every_cut_in_two_gives_the_same(format_):
    text = WRITERS[format_](CALLS["several"]) + "\nok"
    whole = parsed(format_, text)
    for i in range(len(text)):
        assert parsed(format_, text[:i], text[i:]) == whole


@pytest.mark.parametrize("format_", ["deepseek_v31", "hermes", "lfm2", "mistral", "qwen3_coder"])
def test_every_cut_in_three_gives_the_same(format_):
    text = WRITERS[format_]([("add", {"a": 1}), ("now", {})]) + "\nok"
    whole = parsed(format_, text)
    for i, j in combinations(range(len(text)), 2):
        assert parsed(format_, text[:i], text[i:j], text[j:]) == whole


@formats
def test_damaged_answers_give_the_same_however_they_are_cut(format_):
    text = WRITERS[format_](CALLS["nested"])
    for i in range(len(text)):
        for damaged in (text[:i], text[:i] + text[i + 1 :], f"{text[:i]}…{text[i:]}"):
            assert parsed(format_, *damaged) == parsed(format_, damaged)


@formats
def test_an_answer_that_ends_early_gives_the_beginning_of_its_calls(format_):
    text = WRITERS[format_](CALLS["several"])
    [whole, *_] = parsed(format_, text).calls
    for i in range(len(text)):
        cut = parsed(format_, text[:i])
        assert cut.calls or cut.text == text[:i].rstrip() or cut.text == text[:i]
        if cut.calls:
            name, arguments = cut.calls[0]
            assert name == whole[0]
            assert whole[1].startswith(arguments)


FRAGMENTS = [
    "<",
    ">",
    "tool_call",
    "/",
    "{",
    "}",
    "[",
    "]",
    '"',
    "'",
    "\\",
    "name",
    ":",
    ",",
    "arguments",
    "now",
    "(",
    ")",
    "=",
    "function",
    "parameter",
    "1",
    "true",
    "|",
    "é",
    "\x01",
    "\\u00e9",
    "<tool_call>",
    "</tool_call>",
    '"name"',
    "[TOOL_CALLS]",
    "<function=now>",
    "[now(a=",
    "<think>",
    "</think>",
    "<|channel|>",
    "<|message|>",
    "<｜tool▁call▁begin｜>",
    "functools",
    "{",
    '["name":',
    '"arguments":',
    "<parameter=a>",
    '{"name":"now","arguments":{',
]


@formats
@settings(max_examples=40)
@given(fragments=st.lists(st.sampled_from([*FRAGMENTS, " ", "\n"]), max_size=20))
def test_any_text_gives_the_same_however_it_is_cut(format_, fragments):
    def read(pieces):
        return parse(parser(parser_name(format_), "qwen3"), pieces)

    whole = read(["".join(fragments)])
    assert read(fragments) == whole
    assert read("".join(fragments)) == whole


numbers = st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
any_arguments = st.dictionaries(st.sampled_from(["city", "days", "ünder_score1"]), values, max_size=3)
tagless = st.text(max_size=12).filter(lambda text: "<" not in text)
declared_arguments = st.fixed_dictionaries(
    {"city": tagless, "days": st.integers(), "where": st.dictionaries(tagless, numbers)}
)


@formats
@settings(max_examples=40)
@given(data=st.data())
def test_any_arguments_come_through(format_, data):
    arguments = declared_arguments if format_ in DECLARED else any_arguments
    call = st.tuples(st.just("get_weather"), arguments)
    calls: list[Call] = data.draw(st.lists(call, min_size=1, max_size=3))
    text = WRITERS[format_](calls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=4)))
    pieces = [text[i:j] for i, j in pairwise([0, *cuts, len(text)])]
    assert parsed(format_, *pieces).values == calls


@formats
def test_only_the_first_call_is_kept_if_calls_may_not_be_parallel(format_):
    text = WRITERS[format_](CALLS["several"]) + "\nok"
    reader = parser(parser_name(format_), parallel_tool_calls=False)
    assert parse(reader, text) == Joined("\nok", "", parsed(format_, text).calls[:1])
