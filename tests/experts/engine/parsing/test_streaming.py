"""When a part is known: as soon as the text cannot be the beginning of something else."""

from __future__ import annotations

import pytest

from experts.engine.chunk import Part, ReasoningPart, TextPart, ToolCallPart
from tests.experts.engine.parsing.answers import parser


def text(value: str) -> list[Part]:
    return [TextPart(value)]


def call(arguments: str) -> list[Part]:
    return [ToolCallPart(0, None, arguments)]


@pytest.mark.parametrize(
    ("name", "pieces"),
    [
        ("hermes", [("Hi", text("Hi")), (" <", text(" ")), ("tool", []), ("s>", text("<tools>"))]),
        ("hermes", [(" \n", []), ("Hi", text(" \nHi")), ("\n", text("\n"))]),
        (
            "hermes",
            [
                ('<tool_call>\n{"name": "now", "argu', []),
                ('ments":', [ToolCallPart(0, "now")]),
                (' {"a', call('{"a')),
                ('": "\\', call('": "')),
                ("n b", call("\\n b")),
                ('"', call('"')),
                ("}", call("}")),
                ("}", []),
                ("\n</tool_call>\n", []),
                ("so", text("\nso")),
            ],
        ),
        ("mistral", [("[TOOL_CALLS]now", []), ("{", [ToolCallPart(0, "now", "{")])]),
        (
            "qwen3_coder",
            [
                ("<tool_call>\n<function=get_weather>\n<parameter", []),
                ("=", [ToolCallPart(0, "get_weather", "{")]),
                ("city>", call('"city": ')),
                ('\nNew "', call('"New \\"')),
                ("York\n", call("York")),
                ("City\n</", call("\\nCity")),
                ("parameter>", call('"')),
                ("<parameter=days>\n1", call(', "days": ')),
                ("2</parameter>", call("12")),
            ],
        ),
        (
            "pythonic",
            [
                ("[get_weather(city", []),
                ("=", [ToolCallPart(0, "get_weather", '{"city": ')]),
                ("'Par", call('"Par')),
                ("is', days=1", call('is", "days": ')),
                ("2)", call("12}")),
            ],
        ),
        ("llama3_json", [('{"name": "Bob', []), ('"', text('{"name": "Bob"'))]),
        ("pythonic", [("[see", []), ("]", text("[see]"))]),
    ],
)
def test_calls_and_text_stream(name, pieces):
    reader = parser(name)
    for piece, expected in pieces:
        assert list(reader.feed(piece)) == expected


def test_thoughts_stream():
    reader = parser("hermes", "qwen3", "<think>\n")
    assert reader.in_reasoning
    assert reader.feed("so </") == (ReasoningPart("so "),)
    assert reader.feed("b></think") == (ReasoningPart("</b>"),)
    assert reader.in_reasoning
    assert reader.feed(">ok") == (TextPart("ok"),)
    assert not reader.in_reasoning
    assert reader.close() == ()


def test_what_is_held_back_comes_out_at_the_end():
    reader = parser("hermes", "qwen3", "<think>\n")
    assert reader.feed("so </thi") == (ReasoningPart("so "),)
    assert reader.close() == (ReasoningPart("</thi"),)
    reader = parser("hermes")
    assert reader.feed('a<tool_call>{"name": "now"') == (TextPart("a"),)
    assert reader.close() == (TextPart('<tool_call>{"name": "now"'),)


def test_a_long_string_is_passed_on_without_delay():
    reader = parser("hermes")
    reader.feed('<tool_call>{"name": "now", "arguments": {"a": "')
    for _ in range(1000):
        assert reader.feed("x y") == (ToolCallPart(0, None, "x y"),)
