"""Calls that a request forces: every model writes them as a grammar of the engine has it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.experts.engine.parsing.answers import CALLS, Joined, parse, parser


def forced(tool_choice, pieces, **options):
    return parse(parser("mistral", "qwen3", "", tool_choice=tool_choice, **options), pieces)


def listed(calls):
    return json.dumps([{"name": name, "parameters": arguments} for name, arguments in calls])


@pytest.mark.parametrize("example", CALLS)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_list_of_calls_is_read_however_it_is_cut(example, indent):
    calls = CALLS[example]
    text = json.dumps([{"name": n, "parameters": a} for n, a in calls], ensure_ascii=False, indent=indent)
    whole = forced("required", [f"\n{text}\n"])
    assert (whole.values, whole.text, whole.reasoning) == (calls, "", "")
    for i in range(len(text)):
        assert forced("required", [text[:i], text[i:]]) == whole


@given(arguments=st.dictionaries(st.text(max_size=5), st.text(max_size=5) | st.floats(allow_nan=False)))
def test_the_arguments_of_a_named_function_are_the_text(arguments):
    text = json.dumps(arguments)
    assert forced("add", text) == forced("add", [text]) == Joined(calls=[("add", text)])


def test_thoughts_before_a_forced_call_are_no_part_of_it():
    text = "hm</think>" + listed([("now", {})])
    expected = Joined(reasoning="hm", calls=[("now", "{}")])
    for i in range(len(text)):
        reader = parser("mistral", "qwen3", "<think>", tool_choice="required")
        assert parse(reader, [text[:i], text[i:]]) == expected


def test_a_list_that_ends_early_gives_its_beginning():
    text = listed([("add", {"a": 1}), ("now", {})])
    assert forced("required", [text[:-20]]).calls[0] == ("add", '{"a": 1}')
    assert forced("add", ['{"a": tr']) == Joined(calls=[("add", '{"a": tr')])


@pytest.mark.parametrize("cut", ['[{"name": "add"', '[{"name": "add",', '[{"name": "add", "parameters":'])
def test_a_call_that_is_cut_after_its_name_is_a_call_and_no_text(cut):
    whole = forced("required", [cut])
    assert (whole.text, [name for name, _ in whole.calls]) == ("", ["add"])
    assert forced("required", cut) == whole


def test_what_is_no_call_is_text():
    assert forced("required", "I cannot") == Joined("I cannot")
    assert forced("add", "I cannot") == Joined("I cannot")


def test_only_the_first_call_is_kept_if_calls_may_not_be_parallel():
    text = listed([("add", {"a": 1}), ("now", {})])
    assert forced("required", text, parallel_tool_calls=False) == Joined(calls=[("add", '{"a": 1}')])
