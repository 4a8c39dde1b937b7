"""An answer on the terminal: the names of its authors beside the text, and nothing that controls it."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
from rich.console import Console

from cluster.client.answer_printer import AnswerPrinter
from cluster.client.chat import AnswerPart, AnswerTrace, SpanTrace
from cluster.errors import AskError

TRACE = AnswerTrace((SpanTrace("meta", 1, None), SpanTrace("roman", 12, 0.973)), 12.3, 456.7)


def printed(*parts: AnswerPart | AnswerTrace, with_names: bool = True, is_terminal: bool = True) -> str:
    file = io.StringIO()
    console = Console(file=file, width=40, force_terminal=is_terminal, color_system=None)
    AnswerPrinter(console, with_names=with_names, with_trace=True).print(parts)
    return file.getvalue()


def test_the_authors_stand_in_a_column_and_the_text_is_wrapped_beside_them():
    text = printed(
        AnswerPart("Hm, a number.", "meta", is_thought=True),
        AnswerPart("It is ", "meta"),
        AnswerPart("XIV, that is ten and ", "roman"),
        AnswerPart("four.\n", "roman"),
        AnswerPart("Good.", "an-expert-with-a-long-name"),
    )
    assert text.splitlines() == [
        "            meta  Hm, a number.",
        "            meta  It is",
        "           roman  XIV, that is ten and",
        "                  four.",
        "an-expert-with-a-long-name",
        "                  Good.",
    ]


def test_the_trace_follows_in_the_same_columns():
    assert printed(AnswerPart("XIV", "roman"), TRACE).splitlines()[1:] == [
        "",
        "            meta  1 token",
        "           roman  12 tokens, chosen with probability 0.97",
        "                  first text after 12 ms, end after 457 ms",
    ]


def test_without_names_the_text_is_printed_as_it_was_sent():
    parts = [
        AnswerPart("  a\x1b[2J ", None),
        AnswerPart("hm", None, is_thought=True),
        AnswerPart("\r\n b", None),
    ]
    assert printed(*parts, with_names=False, is_terminal=False) == "  a\x1b[2J \r\n b\n"


def test_an_answer_without_text_is_an_empty_line_if_there_are_no_names():
    assert printed(with_names=False, is_terminal=False) == "\n"
    assert printed() == ""


@pytest.mark.parametrize(("with_names", "tab"), [(True, "    "), (False, "\t")])
def test_no_model_controls_the_terminal(with_names: bool, tab: str):
    text = printed(AnswerPart("a\x1b[2J\x9b\x07b\tc", "meta"), with_names=with_names)
    assert text.endswith(f"a\ufffd[2J\ufffd\ufffdb{tab}c\n")


def test_the_last_line_is_ended_if_the_answer_breaks_off():
    file = io.StringIO()
    printer = AnswerPrinter(Console(file=file), with_names=True, with_trace=False)

    def parts() -> Iterator[AnswerPart]:
        yield AnswerPart("half a wo", "meta")
        raise AskError("broken")

    with pytest.raises(AskError):
        printer.print(parts())
    assert file.getvalue() == "            meta  half a wo\n"
