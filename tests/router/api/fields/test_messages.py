"""The messages of a conversation, as clients send them back."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.requests import ChatRequest
from router.prompt import Message, ToolCall
from tests.router.api.fields.asked import QUESTION, chat, refusal

CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}


def sent(message: dict[str, Any]) -> Message:
    [prompt] = chat(messages=[QUESTION, message]).prompts()
    assert prompt.messages is not None
    return prompt.messages[1]


@pytest.mark.parametrize("content", [None, "", []])
def test_a_tool_call_needs_no_content(content: Any):
    if content == []:
        message = {"role": "assistant", "tool_calls": [CALL]}
    else:
        message = {"role": "assistant", "content": content, "tool_calls": [CALL]}
    assert sent(message) == Message("assistant", "", tool_calls=(ToolCall("c1", "f", '{"a": 1}'),))


def test_a_result_names_its_call():
    message = {"role": "tool", "tool_call_id": "c1", "name": "f", "content": [{"type": "text", "text": "3"}]}
    assert sent(message) == Message("tool", "3", tool_call_id="c1", name="f")


def test_arguments_may_be_an_object():
    call = {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}
    assert sent({"role": "assistant", "tool_calls": [call]}).tool_calls == (ToolCall("c1", "f", '{"a": 1}'),)


def test_a_result_of_the_first_api_belongs_to_the_call_of_its_function():
    called = sent({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}})
    result = sent({"role": "function", "name": "f", "content": "3"})
    [call] = called.tool_calls
    assert (call.name, call.arguments) == ("f", "{}")
    assert result == Message("tool", "3", tool_call_id=call.id, name="f")


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({"reasoning": "hm"}, "hm"),
        ({"reasoning_content": "hm"}, "hm"),
        ({"reasoning": "hm", "reasoning_content": "hm hm"}, "hm"),
        ({"reasoning": None, "reasoning_content": None}, None),
    ],
)
def test_thoughts_go_along(fields: dict[str, Any], reasoning: str | None):
    assert sent({"role": "assistant", "content": "IX", **fields}) == Message(
        "assistant", "IX", reasoning=reasoning
    )


def test_the_words_of_a_refusal_are_what_the_assistant_said():
    parts = [{"type": "text", "text": "Well,"}, {"type": "refusal", "refusal": "no."}]
    assert sent({"role": "assistant", "content": parts}) == Message("assistant", "Well,\nno.")
    assert sent({"role": "assistant", "content": None, "refusal": "no."}) == Message("assistant", "no.")


def test_fields_that_clients_add_are_no_obstacle():
    more: dict[str, Any] = {
        "id": "m1",
        "metadata": {},
        "annotations": [],
        "audio": None,
        "tool_calls": [],
        "function_call": None,
    }
    assert sent({"role": "user", "content": "x", **more}) == Message("user", "x")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "user"}, "content"),
        ({"role": "tool", "content": None}, "content"),
        ({"role": "user", "content": [{"type": "refusal"}]}, "content.0"),
        (
            {"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]},
            "content.0.input_audio.data",
        ),
        ({"role": "user", "content": "x", "tool_calls": [CALL]}, "tool_calls"),
        ({"role": "user", "content": "x", "function_call": CALL["function"]}, "function_call"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "tool_calls.0.function"),
        ({"role": "assistant", "tool_calls": [{**CALL, "type": "custom"}]}, "tool_calls.0.type"),
        (
            {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": 1}}]},
            "tool_calls.0.function.arguments",
        ),
        ({"role": "assistant", "tool_calls": [CALL] * 129}, "tool_calls"),
        ({"role": "assistant", "content": "x", "audio": {"id": "a"}}, "audio"),
        ({"role": "system", "content": "x", "tools": [{}]}, "tools"),
    ],
)
def test_a_message_that_cannot_be_understood_is_refused_by_name(message: dict[str, Any], param: str):
    assert refusal(ChatRequest, messages=[message]).param == f"messages.0.{param}"
