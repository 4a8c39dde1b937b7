"""Thoughts: where they begin and end, with and without tool calls after them."""

from __future__ import annotations

from itertools import combinations

import pytest

from experts.engine.parsing.formats import THINK_MARKS
from tests.experts.engine.parsing.answers import Joined, parse, parser

CALL = '<tool_call>{"name": "now"}</tool_call>'
NOW = [("now", "{}")]


@pytest.mark.parametrize("name", THINK_MARKS)
def test_thoughts_stand_between_their_marks(name):
    marks = THINK_MARKS[name]
    for opened, tail in (
        (f"\n{marks.start}", "assistant\n"),
        ("", f"{marks.start}\n"),
        (marks.start, marks.start),
    ):
        text = f"{opened}a < b\n{marks.end}\n\nso{CALL}"
        expected = Joined("\n\nso", "a < b\n", NOW)
        assert parse(parser("hermes", name, tail), [text]) == expected
        assert parse(parser("hermes", name, tail), text) == expected
        assert parse(parser("none", name, tail), text) == Joined(f"\n\nso{CALL}", "a < b\n")


@pytest.mark.parametrize(
    ("name", "tail", "text", "expected"),
    [
        # The template has closed the block, or the answer has begun without one.
        ("qwen3", "<think>\n\n</think>\n\n", "so", Joined("so")),
        ("qwen3", "assistant\n", "so", Joined("so")),
        ("qwen3", "assistant\n", "so <think> is a tag </think>", Joined("so <think> is a tag </think>")),
        ("qwen3", "what does <think> mean?\nassistant\n", "so", Joined("so")),
        # DeepSeek R1 may think without the first mark.
        ("deepseek_r1", "<｜Assistant｜>", "a</think>so", Joined("so", "a")),
        ("deepseek_r1", "<｜Assistant｜></think>", "so", Joined("so")),
        # The generation ends among the thoughts.
        ("qwen3", "<think>", "a", Joined("", "a")),
        ("qwen3", "<think>", " ", Joined("", " ")),
        ("qwen3", "", "<think>", Joined()),
        ("qwen3", "", "<thin", Joined("<thin")),
        # Blanks between thoughts and a call belong to neither.
        ("qwen3", "<think>", f"a</think>\n\n{CALL}", Joined("", "a", NOW)),
        # A call ends thoughts, but only a real one, and not in every model.
        ("qwen3", "<think>", f"a {CALL}\nso", Joined("\nso", "a ", NOW)),
        ("qwen3", "<think>", "a <tool_call> b</think>so", Joined("so", "a <tool_call> b")),
        ("deepseek_r1", "<think>", f"a {CALL}</think>so", Joined("so", f"a {CALL}")),
    ],
)
def test_thoughts_and_calls(name, tail, text, expected):
    assert parse(parser("hermes", name, tail), [text]) == expected
    for i, j in combinations(range(len(text) + 1), 2):
        assert parse(parser("hermes", name, tail), [text[:i], text[i:j], text[j:]]) == expected


def test_an_answer_that_has_begun_is_continued_without_thoughts():
    assert parse(parser("hermes", "deepseek_r1", "Iron is", written="Iron is"), " so") == Joined(" so")
