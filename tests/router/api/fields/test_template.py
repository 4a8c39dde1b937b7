"""The fields for the chat template, and the turn that an answer continues."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.requests import ChatRequest, CompletionRequest
from router.prompt import ChatOptions, Message
from tests.router.api.fields.asked import QUESTION, chat, chat_options, refusal, text

BEGUN = {"role": "assistant", "content": "It is"}
THINKS, THINKS_NOT = ({"enable_thinking": thinks, "thinking": thinks} for thinks in (True, False))
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize("more", [{}, {"add_generation_prompt": False}])
def test_a_last_message_is_continued(more: dict[str, Any]):
    [prompt] = chat(messages=[QUESTION, BEGUN], continue_final_message=True, **more).prompts()
    assert prompt.messages == (Message("user", QUESTION["content"]),)
    assert (prompt.written, prompt.options) == ("It is", None)


def test_a_last_message_is_answered_anew_unless_it_is_to_be_continued():
    [prompt] = chat(messages=[QUESTION, BEGUN]).prompts()
    assert prompt.messages == (Message("user", QUESTION["content"]), Message("assistant", "It is"))
    assert prompt.written == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [QUESTION]},
        {"messages": [BEGUN]},
        {"messages": [QUESTION, {"role": "assistant", "tool_calls": [CALL]}]},
        {"messages": [QUESTION, {"role": "assistant", "function_call": CALL["function"]}]},
        {"messages": [QUESTION, BEGUN], "add_generation_prompt": True},
    ],
)
def test_what_cannot_be_continued_is_refused_by_name(fields: dict[str, Any]):
    assert refusal(ChatRequest, continue_final_message=True, **fields).param == "continue_final_message"


@pytest.mark.parametrize(
    ("fields", "variables"),
    [
        ({"chat_template_kwargs": {"a": [1], "b": None}}, {"a": [1], "b": None}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low", "enable_thinking": True, "thinking": True}),
        (
            {"reasoning_effort": "none"},
            {"reasoning_effort": "none", "enable_thinking": False, "thinking": False},
        ),
        (
            {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}},
            {"reasoning_effort": "high", "enable_thinking": False, "thinking": True},
        ),
        (
            {"reasoning": {"effort": "max"}},
            {"reasoning_effort": "max", **THINKS},
        ),
        ({"reasoning": {"enabled": False}}, THINKS_NOT),
        ({"enable_thinking": True}, THINKS),
    ],
)
def test_variables_reach_the_template(fields: dict[str, Any], variables: dict[str, Any]):
    assert chat_options(chat(**fields)) == ChatOptions(template_kwargs=variables)


def test_the_other_fields_reach_the_template():
    documents = [{"title": "t", "text": "x"}]
    found = chat_options(
        chat(
            documents=documents,
            truncate_prompt_tokens=3,
            add_generation_prompt=False,
            chat_template="{{ x }}",
        )
    )
    assert found == ChatOptions(
        documents=({"title": "t", "text": "x"},),
        chat_template="{{ x }}",
        truncate_prompt_tokens=3,
        add_generation_prompt=False,
    )
    for num in (2, -1):
        assert chat_options(text(truncate_prompt_tokens=num)) == ChatOptions(truncate_prompt_tokens=num)


@pytest.mark.parametrize(
    "fields",
    [
        {"chat_template_kwargs": {}, "documents": [], "reasoning": {}},
        {"add_generation_prompt": True, "continue_final_message": False},
        dict.fromkeys(("chat_template", "reasoning_effort", "truncate_prompt_tokens", "enable_thinking")),
    ],
)
def test_values_that_ask_for_nothing_cost_nothing(fields: dict[str, Any]):
    assert chat(**fields).prompts() == chat().prompts()


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "messages", "tools", "add_generation_prompt"])
def test_a_variable_cannot_replace_what_the_renderer_sets(name: str):
    assert refusal(ChatRequest, chat_template_kwargs={name: "x"}).param == "chat_template_kwargs"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"documents": ["x"]}, "documents.0"),
        ({"documents": [{}] * 1025}, "documents"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"reasoning_effort": 0.5}, "reasoning_effort"),
        ({"reasoning": "high"}, "reasoning"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"enable_thinking": "no"}, "enable_thinking"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs"),
        ({"chat_template": ""}, "chat_template"),
    ],
)
def test_a_value_of_a_wrong_kind_is_refused_by_name(fields: dict[str, Any], param: str):
    assert refusal(ChatRequest, **fields).param == param


def test_chat_fields_are_refused_for_a_raw_prompt():
    assert refusal(CompletionRequest, chat_template_kwargs={"a": 1}).param == "chat_template_kwargs"
