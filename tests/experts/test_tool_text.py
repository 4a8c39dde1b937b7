"""Tools for models whose chat template knows none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experts.engine.chunk import ToolCallPart
from experts.engine.parsing.registry import choose
from experts.engine.request import ChatOptions, EngineRequest
from experts.prompt import PromptRenderer
from experts.tool_text import with_tools_as_text
from tests.tiny.templates import FORMATS
from tests.tiny.tokenizers import CHATML, byte_level, of_format

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
QUESTION = {"role": "user", "content": "Rome and Paris?"}
CALLS = [{"function": {"name": "weather", "arguments": {"city": city}}} for city in ("Rome", "Paris")]
CALL = {"role": "assistant", "content": "I look.", "tool_calls": CALLS}
RESULTS = [{"role": "tool", "content": "sunny"}, {"role": "tool", "content": "rain"}]


def test_calls_and_results_become_text_of_the_two_roles_that_every_template_knows():
    question, call, results = with_tools_as_text([QUESTION, CALL, *RESULTS], ())
    assert question == QUESTION
    assert call["role"] == "assistant"
    assert call["content"].startswith("I look.\n<tool_call>\n")
    assert results["content"].count("<tool_response>") == 2
    assert results["role"] == "user"


@pytest.mark.parametrize("system", [[], [{"role": "system", "content": "Be brief."}]])
def test_the_system_message_explains_the_tools(system: list[dict[str, Any]]):
    first, *_ = with_tools_as_text([*system, QUESTION], [WEATHER])
    assert first["role"] == "system"
    assert json.dumps(WEATHER) in first["content"]
    assert ("Be brief." in first["content"]) == bool(system)


def test_what_the_history_shows_is_what_the_parser_reads():
    [call] = with_tools_as_text([CALL], ())
    request = EngineRequest("r", messages=(), chat=ChatOptions(tools=(WEATHER,)))
    parser = choose(CHATML).parser(request, "")
    assert parser is not None
    parts = [*parser.feed(call["content"]), *parser.close()]
    calls = [part for part in parts if isinstance(part, ToolCallPart)]
    assert [part.name for part in calls if part.name] == ["weather", "weather"]
    arguments = ["".join(part.arguments for part in calls if part.index == index) for index in (0, 1)]
    assert list(map(json.loads, arguments)) == [{"city": "Rome"}, {"city": "Paris"}]


@pytest.mark.parametrize("name", [name for name, each in FORMATS.items() if "tools" not in each.template])
def test_every_family_without_tools_can_hold_a_conversation_with_them(name: str):
    tokenizer = of_format(FORMATS[name])
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]
    text = tokenizer.decode(PromptRenderer(tokenizer).chat(messages, variables={"tools": [WEATHER]}))
    assert all(part in text for part in (json.dumps(WEATHER), '"name": "weather"', "sunny"))


def test_a_conversation_without_tools_is_as_it_was():
    renderer = PromptRenderer(byte_level(CHATML))
    result = {"role": "tool", "content": "sunny"}
    assert "<|im_start|>tool\n" in byte_level(CHATML).decode(renderer.chat([QUESTION, result, QUESTION]))
