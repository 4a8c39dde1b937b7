"""Tool calls as models write them when they slip, and texts that only look like calls."""

from __future__ import annotations

import pytest

from tests.experts.engine.parsing.answers import Joined, parse, parser, tool

NOW = [("now", "{}")]
QWEN = "<tool_call>\n<function=get_weather>\n"


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        # What the model wrote is passed on, byte for byte.
        (
            "hermes",
            '<tool_call>{"name": "now", "arguments": {"a":  "\\u0069",\n "b":1.50E+2}}</tool_call>',
            Joined(calls=[("now", '{"a":  "\\u0069",\n "b":1.50E+2}')]),
        ),
        # The name may come last, arguments may be missing, and other keys are passed over.
        (
            "hermes",
            '<tool_call>{"id": [1], "arguments": {"a": 1}, "name": "now"}</tool_call>',
            Joined(calls=[("now", '{"a": 1}')]),
        ),
        ("hermes", '<tool_call>{"name": "now"}</tool_call>', Joined(calls=NOW)),
        # Line breaks in strings become escapes.
        (
            "hermes",
            '<tool_call>{"name": "now", "arguments": {"a": "1\n\t2"}}</tool_call>',
            Joined(calls=[("now", '{"a": "1\\n\\t2"}')]),
        ),
        # JSON that is written once more as a string.
        (
            "mistral",
            '[TOOL_CALLS][{"name": "now", "arguments": "{\\"a\\": \\"\\\\n\\"}"}]',
            Joined(calls=[("now", '{"a": "\\n"}')]),
        ),
        # The outer bracket, or the last mark, is missing or there twice.
        ("hermes", '<tool_call>{"name": "now", "arguments": {}</tool_call>\nok', Joined("\nok", "", NOW)),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}}\n</tool_call>', Joined(calls=NOW)),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}</tool_call></tool_call>', Joined(calls=NOW)),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}}', Joined(calls=NOW)),
        ("hermes", '<tool_call>{"name": "now", "arguments": {}} so', Joined(" so", "", NOW)),
        # Arguments that are no JSON reach the client as they are, up to the next mark.
        (
            "hermes",
            '<tool_call>{"name": "now", "arguments": {"a": tru!}}</tool_call>ok',
            Joined("ok", "", [("now", '{"a": tru!}}')]),
        ),
        (
            "hermes",
            '<tool_call>{"name": "now", "arguments": {\'a\': 1}}</tool_call>'
            '<tool_call>{"name": "now"}</tool_call>',
            Joined(calls=[("now", "{'a': 1}}"), *NOW]),
        ),
        # Not a call: text, with its marks.
        ("hermes", "use <tool_call> tags", Joined("use <tool_call> tags")),
        ("hermes", "<tool_call>{}</tool_call>", Joined("<tool_call>{}</tool_call>")),
        ("hermes", '<tool_call>{"name": ""}</tool_call>', Joined('<tool_call>{"name": ""}</tool_call>')),
        ("hermes", '<tool_call>{"name": 1', Joined('<tool_call>{"name": 1')),
        (
            "hermes",
            'a <tool_call> b <tool_call>{"name": "now"}</tool_call>',
            Joined("a <tool_call> b ", "", NOW),
        ),
        # A list whose second element is no call.
        ("jamba", '<tool_calls>[{"name": "now"}, 1]</tool_calls>', Joined(", 1]</tool_calls>", "", NOW)),
        # Without a mark, only a tool of the request is called, and only at the beginning.
        ("llama3_json", '{"name": "Bob", "parameters": {}}', Joined('{"name": "Bob", "parameters": {}}')),
        ("llama3_json", 'a {"name": "now"}', Joined('a {"name": "now"}')),
        ("llama3_json", '\n{"name": "now"}\n{"name": "now"}', Joined(calls=NOW * 2)),
        ("pythonic", "[later(a=1)]", Joined("[later(a=1)]")),
        ("pythonic", "[now(1)]", Joined("[now(1)]")),
        # Python's literals become JSON.
        (
            "pythonic",
            "[now(a=(1, -2.5, 1_000), b={'x': None, \"y\": [True,],}, c='it\\'s \"\\x41\\n', d=true,)]",
            Joined(
                calls=[
                    (
                        "now",
                        '{"a": [1 ,-2.5 ,1000], "b": {"x": null ,"y": [true]}, '
                        '"c": "it\'s \\"\\u0041\\n", "d": true}',
                    )
                ]
            ),
        ),
        ("pythonic", "[now(a=b), now()]", Joined(calls=[("now", '{"a": b), now()]')])),
        # Tags for parameters: strings keep what JSON would read as something else.
        (
            "qwen3_coder",
            f"{QWEN}<parameter=city>\n5\n</parameter>\n<parameter=days>\n5\n</parameter>\n</function>\n",
            Joined(calls=[("get_weather", '{"city": "5", "days": 5}')]),
        ),
        # The mark before the function, or those after a value and after the last one, are missing.
        (
            "qwen3_coder",
            "<function=get_weather><parameter=city>a<b\n\n<parameter=days>\n5</tool_call>ok",
            Joined("ok", "", [("get_weather", '{"city": "a<b\\n", "days": 5}')]),
        ),
        # A value that is not of its type, and a parameter that is not declared.
        (
            "qwen3_coder",
            f"{QWEN}<parameter=days>\nfive\n</parameter>\n<parameter=x>\n[1]\n</parameter>\n</function>",
            Joined(calls=[("get_weather", '{"days": "five", "x": "[1]"}')]),
        ),
        ("qwen3_coder", f"{QWEN}<parameter=ci", Joined(calls=[("get_weather", "{")])),
        (
            "qwen3_coder",
            f"{QWEN}<parameter=city>\nPar",
            Joined(calls=[("get_weather", '{"city": "Par')]),
        ),
        (
            "qwen3_coder",
            f"{QWEN}<parameter=days>\n5\n</parameter> so",
            Joined("so", "", [("get_weather", '{"days": 5')]),
        ),
        ("qwen3_coder", f"{QWEN}so", Joined(f"{QWEN}so")),
        # Other tools than functions of the request, by a mark of their own.
        ("llama3_json", "<|python_tag|>print(1)", Joined("<|python_tag|>print(1)")),
    ],
)
def test_odd_answers(name, text, expected):
    assert parse(parser(name), [text]) == expected
    assert parse(parser(name), text) == expected


@pytest.mark.parametrize(
    ("schema", "written", "expected"),
    [
        ({"type": "boolean"}, "True", "true"),
        ({"type": ["string", "null"]}, "null", "null"),
        ({"type": ["string", "null"]}, "5", '"5"'),
        ({"type": "number"}, "1e3", "1e3"),
        ({"type": "number"}, "NaN", '"NaN"'),
        ({"type": "integer"}, "5.0", "5.0"),
        ({"type": "object"}, " {'a': 1} ", "\" {'a': 1} \""),
        ({"enum": [1, 2]}, "2", "2"),
        ({"enum": ["1", "2"]}, "2", '"2"'),
        ({"anyOf": [{"type": "array"}, {"type": "null"}]}, "[1]", "[1]"),
        ({"$ref": "#/$defs/x"}, '{"a": 1}', '{"a": 1}'),
        ({"$ref": "#/$defs/x"}, "red", '"red"'),
        ({}, "1", '"1"'),
        (None, "1", '"1"'),
        ({"type": 7, "enum": 8, "anyOf": 9}, "1", "1"),
    ],
)
def test_values_in_tags_have_the_type_that_the_tool_declares(schema, written, expected):
    declared = tool("now")
    declared["function"]["parameters"]["properties"] = {"a": schema}
    text = f"<tool_call>now<arg_key>a</arg_key><arg_value>{written}</arg_value></tool_call>"
    assert parse(parser("glm45", tools=[declared]), [text]).calls == [("now", f'{{"a": {expected}}}')]


def test_a_deeply_nested_value_is_read():
    brackets = "[" * 5000 + "]" * 5000
    text = f'<tool_call>{{"name": "now", "arguments": {{"a": {brackets}}}}}</tool_call>'
    assert parse(parser("hermes"), [text]).calls == [("now", f'{{"a": {brackets}}}')]


@pytest.mark.timeout(60)  # in time that grows with the square it takes minutes
@pytest.mark.parametrize(
    ("name", "mark"),
    [
        ("deepseek_v3", "<｜tool▁call▁begin｜>"),
        ("hermes", "<tool_call>"),
        ("mistral", "[TOOL_CALLS]"),
        ("qwen3_coder", "<function="),
        ("olmo3", "<function_calls>"),
    ],
)
def test_a_model_that_repeats_a_mark_is_read_in_linear_time(name, mark):
    assert parse(parser(name), [mark] * 10_000) == Joined(mark * 10_000)
