"""Answers with tool calls, as models of each format write them, and what parsers make of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from experts.engine.chunk import Part, ReasoningPart, TextPart
from experts.engine.parsing.output_parser import OutputParser
from experts.engine.parsing.registry import NONE, choose
from experts.engine.request import ChatOptions, EngineRequest

Call = tuple[str, dict[str, Any]]


def tool(name: str, **types: str) -> dict[str, Any]:
    properties = {key: {"type": type_} for key, type_ in types.items()}
    return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}


TOOLS = (
    tool("get_weather", city="string", days="integer", where="object"),
    tool("add", a="number", b="number", exact="boolean"),
    tool("run-code", code="string", flags="array", note="null"),
    tool("now"),
)

CALLS: dict[str, list[Call]] = {
    "one": [("get_weather", {"city": "Paris"})],
    "nested": [("get_weather", {"city": "Oslo", "days": 3, "where": {"lat": [59.9, {"x": None}], "in": {}}})],
    "several": [("add", {"a": 1, "b": -2.5}), ("now", {}), ("add", {"a": 3, "exact": True})],
    "unicode": [("get_weather", {"city": "São Paulo – 東京 👩‍🚀"})],
    "quotes": [
        ("run-code", {"code": 'print("a\\n", \'b\')\n\tx = {"y": [1]}\n\n', "flags": ['"', "]", "}"]})
    ],
}


@dataclass(frozen=True)
class Joined:
    """All parts of an answer. A call is its name and its arguments' text."""

    text: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    @property
    def values(self) -> list[Call]:
        return [(name, json.loads(arguments)) for name, arguments in self.calls]


def joined(parts: Iterable[Part]) -> Joined:
    text = reasoning = ""
    calls: list[tuple[str, str]] = []
    for part in parts:
        if isinstance(part, TextPart):
            text += part.text
        elif isinstance(part, ReasoningPart):
            reasoning += part.text
        else:
            if part.name is not None:
                assert part.index == len(calls), "calls are numbered in order"
                calls.append((part.name, ""))
            assert part.index == len(calls) - 1, "a call's pieces come before the next call"
            calls[-1] = (calls[-1][0], calls[-1][1] + part.arguments)
    return Joined(text, reasoning, calls)


def request(tools: Sequence[dict[str, Any]] = TOOLS, written: str = "", **options: Any) -> EngineRequest:
    messages = ({"role": "user", "content": "question"},)
    return EngineRequest("1", messages, written=written, chat=ChatOptions(tuple(tools), **options))


def parser(tool_parser: str, reasoning_parser: str = NONE, tail: str = "", **options: Any) -> OutputParser:
    found = choose("", tool_parser, reasoning_parser).parser(request(**options), tail)
    assert found
    return found


def parse(parser: OutputParser, pieces: Iterable[str]) -> Joined:
    parts = [part for piece in pieces for part in parser.feed(piece)]
    return joined([*parts, *parser.close()])


def _object(call: Call, arguments: str = "arguments") -> str:
    return json.dumps({"name": call[0], arguments: call[1]}, ensure_ascii=False)


def _list(calls: list[Call]) -> str:
    return f"[{', '.join(map(_object, calls))}]"


def _json(call: Call) -> str:
    return json.dumps(call[1], ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _hermes(calls: list[Call]) -> str:
    return "\n".join(f"<tool_call>\n{_object(call)}\n</tool_call>" for call in calls)


def _qwen(call: Call) -> str:
    parameters = "".join(
        f"<parameter={key}>\n{_plain(value)}\n</parameter>\n" for key, value in call[1].items()
    )
    return f"<tool_call>\n<function={call[0]}>\n{parameters}</function>\n</tool_call>"


def _glm(call: Call) -> str:
    arguments = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{_plain(value)}</arg_value>\n"
        for key, value in call[1].items()
    )
    return f"<tool_call>{call[0]}\n{arguments}</tool_call>"


def _minimax(calls: list[Call]) -> str:
    invokes = "".join(
        f'<invoke name="{name}">\n'
        + "".join(f'<parameter name="{k}">{_plain(v)}</parameter>\n' for k, v in arguments.items())
        + "</invoke>\n"
        for name, arguments in calls
    )
    return f"<minimax:tool_call>\n{invokes}</minimax:tool_call>"


def _python(call: Call) -> str:
    return f"{call[0]}({', '.join(f'{key}={value!r}' for key, value in call[1].items())})"


def _deepseek(calls: list[Call]) -> str:
    each = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{call[0]}\n```json\n{_json(call)}\n```<｜tool▁call▁end｜>"
        for call in calls
    )
    return "<｜tool▁calls▁begin｜>" + "\n".join(each) + "<｜tool▁calls▁end｜>"


def _deepseek_v31(calls: list[Call]) -> str:
    each = (f"<｜tool▁call▁begin｜>{call[0]}<｜tool▁sep｜>{_json(call)}<｜tool▁call▁end｜>" for call in calls)
    return f"<｜tool▁calls▁begin｜>{''.join(each)}<｜tool▁calls▁end｜>"


def _kimi(calls: list[Call]) -> str:
    each = (
        f"<|tool_call_begin|>functions.{call[0]}:{i}<|tool_call_argument_begin|>{_json(call)}<|tool_call_end|>"
        for i, call in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{''.join(each)}<|tool_calls_section_end|>"


# Each writes calls in a format; the names are the parser and a variant.
WRITERS: dict[str, Callable[[list[Call]], str]] = {
    "deepseek_v3": _deepseek,
    "deepseek_v31": _deepseek_v31,
    "glm45": lambda calls: "\n".join(map(_glm, calls)),
    "granite": lambda calls: f"<|tool_call|>{_list(calls)}",
    "granite (text)": lambda calls: f"<tool_call> {_list(calls)}",
    "hermes": _hermes,
    "internlm": lambda calls: "".join(
        f"<|action_start|><|plugin|>{_object(call, 'parameters')}<|action_end|>" for call in calls
    ),
    "jamba": lambda calls: f"<tool_calls>{_list(calls)}</tool_calls>",
    "kimi_k2": _kimi,
    "lfm2": lambda calls: f"<|tool_call_start|>[{', '.join(map(_python, calls))}]<|tool_call_end|>",
    "llama3_json": lambda calls: "; ".join(_object(call, "parameters") for call in calls),
    "llama3_json (marked)": lambda calls: "<|python_tag|>" + "; ".join(map(_object, calls)),
    "llama4_pythonic": lambda calls: f"<|python_start|>[{', '.join(map(_python, calls))}]<|python_end|>",
    "longcat": lambda calls: "".join(
        f"<longcat_tool_call>\n{_object(call)}\n</longcat_tool_call>" for call in calls
    ),
    "minimax_m2": _minimax,
    "mistral": lambda calls: "".join(f"[TOOL_CALLS]{call[0]}[ARGS]{_json(call)}" for call in calls),
    "mistral (list)": lambda calls: f"[TOOL_CALLS]{_list(calls)}",
    "mistral (name)": lambda calls: "".join(f"[TOOL_CALLS]{call[0]}{_json(call)}" for call in calls),
    "olmo3": lambda calls: "<function_calls>" + "\n".join(map(_python, calls)) + "</function_calls>",
    "phi4_mini_json": lambda calls: f"functools{_list(calls)}",
    "pythonic": lambda calls: f"[{', '.join(map(_python, calls))}]",
    "qwen3_coder": lambda calls: "\n".join(map(_qwen, calls)),
    "seed_oss": lambda calls: "\n".join(map(_qwen, calls)).replace("tool_call>", "seed:tool_call>"),
}
# A call is recognised only at the beginning of the answer: it has no mark.
UNMARKED = ("llama3_json", "pythonic")
