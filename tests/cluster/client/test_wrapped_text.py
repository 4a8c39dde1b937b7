"""Text is wrapped alike, however it is cut into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from cluster.client.wrapped_text import WrappedText

INDENT = 4


def wrapped(*pieces: str, width: int | None = 20) -> list[str]:
    """The lines on the terminal, without the indent of all but the first."""
    written: list[str] = []
    text = WrappedText(written.append, INDENT, width)
    for piece in pieces:
        text.add(piece)
    text.flush()
    first, *others = "".join(written).split("\n")
    assert all(line.startswith(" " * INDENT) for line in others if line)
    return [first, *(line[INDENT:] for line in others)]


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", [""]),
        ("one two", ["one two"]),
        ("one two three four five six", ["one two three four", "five six"]),
        ("twenty characters ok and more", ["twenty characters ok", "and more"]),
        (" \n\n one\n\n  - two \n", ["one", "", "  - two"]),
        ("so:\n  - one two three four five\nsix", ["so:", "  - one two three", "    four five", "six"]),
        ("12. one two three four five", ["12. one two three", "    four five"]),
        ("see http://example.com/a/long/path now", ["see", "http://example.com/a", "/long/path now"]),
        ("汉字很长没有空格所以在哪里都行。", ["汉字很长没有空格所以", "在哪里都行。"]),
        ("abc 汉字很长没有空格。所以", ["abc 汉字很长没有空", "格。所以"]),
        (
            "so:\n```py\nif x:\n\tprint('a long line')  # y\n```\nand so on and so forth",
            [
                "so:",
                "```py",
                "if x:",
                "    print('a long li",
                "ne')  # y",
                "```",
                "and so on and so",
                "forth",
            ],
        ),
    ],
)
def test_words_stay_whole_and_code_keeps_its_blanks(text: str, lines: list[str]):
    assert wrapped(text) == lines
    assert wrapped(*text) == lines


def test_without_a_width_only_the_texts_own_lines_end():
    assert wrapped("word " * 50 + "\n" + "x" * 1000, width=None) == [("word " * 50).strip(), "x" * 1000]


def test_a_word_is_written_when_it_is_complete():
    written: list[str] = []
    text = WrappedText(written.append, INDENT, 20)
    text.add("com")
    assert written == []
    text.add("plete ")
    assert "".join(written) == "complete"


@given(st.text(st.sampled_from("ab ` \n漢。é\t-")), st.lists(st.integers(0, 60)), st.integers(2, 12))
def test_no_line_is_too_long_and_no_character_is_lost_wherever_the_text_is_cut(
    text: str, cuts: list[int], width: int
):
    places = [0, *sorted(cuts), len(text)]
    pieces = [text[begin:end] for begin, end in zip(places, places[1:], strict=False)]
    lines = wrapped(*pieces, text[max(places) :], width=width)
    assert lines == wrapped(text, width=width)
    assert all(cell_len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())
