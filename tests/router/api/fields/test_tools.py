"""The tools that a request offers, in both of OpenAI's forms."""

from __future__ import annotations

from typing import Any

import pytest

from router.api.requests import ChatRequest
from tests.router.api.fields.asked import chat, chat_options, refusal

F: dict[str, Any] = {
    "name": "f",
    "description": "d",
    "parameters": {"type": "object", "default": None},
    "strict": True,
}
G: dict[str, Any] = {"name": "g"}


def tool(function: dict[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": function}


@pytest.mark.parametrize(
    ("choice", "chosen"),
    [
        (None, "auto"),
        ("none", "none"),
        ("auto", "auto"),
        ("required", "required"),
        ({"type": "function", "function": {"name": "g"}}, "g"),
        ({"function": {"name": "g"}}, "g"),
    ],
)
def test_tools_and_the_choice_among_them_reach_the_model(choice: Any, chosen: str):
    found = chat_options(chat(tools=[tool(F), tool(G)], tool_choice=choice, parallel_tool_calls=False))
    assert found.tools == (tool(F), tool(G))
    assert (found.tool_choice, found.parallel_tool_calls) == (chosen, False)


@pytest.mark.parametrize(
    ("choice", "chosen"), [(None, "auto"), ("none", "none"), ("auto", "auto"), ({"name": "g"}, "g")]
)
def test_functions_are_tools_that_are_called_one_at_a_time(choice: Any, chosen: str):
    request = chat(functions=[F, G], function_call=choice)
    found = chat_options(request)
    assert request.legacy_functions
    assert found.tools == (tool(F), tool(G))
    assert (found.tool_choice, found.parallel_tool_calls) == (chosen, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "none", "parallel_tool_calls": True},
        {"tool_choice": "auto"},
        {"functions": [], "function_call": "none"},
        {"parallel_tool_calls": False},
    ],
)
def test_without_tools_nothing_is_asked(fields: dict[str, Any]):
    request = chat(**fields)
    assert request.prompts() == chat().prompts()
    assert not request.legacy_functions


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": {}}, "tools"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [tool({"name": ""})]}, "tools.0.function.name"),
        ({"tools": [tool({"name": "f", "parameters": []})]}, "tools.0.function.parameters"),
        ({"tools": [tool({"name": "f", "strict": "yes"})]}, "tools.0.function.strict"),
        ({"tools": [tool(G)] * 129}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [tool(F)], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
        ({"tools": [tool(F)], "tool_choice": "f"}, "tool_choice"),
        ({"tools": [tool(F)], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        ({"tools": [tool(F)], "tool_choice": {"type": "function", "function": "f"}}, "tool_choice"),
        ({"tools": [tool({"name": "auto"})], "tool_choice": {"function": {"name": "auto"}}}, "tool_choice"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"tools": [tool(F)], "functions": [F]}, "functions"),
    ],
)
def test_tools_that_cannot_be_called_are_refused_by_name(fields: dict[str, Any], param: str):
    assert refusal(ChatRequest, **fields).param == param


@pytest.mark.parametrize("choice", ["none", "auto", "required"])
def test_a_form_goes_with_tools(choice: str):
    request = chat(tools=[tool(F)], tool_choice=choice, response_format={"type": "json_object"})
    assert request.grammar is not None
    assert chat_options(request).tool_choice == choice


def test_an_error_does_not_repeat_a_long_name():
    error = refusal(ChatRequest, tools=[tool(F)], tool_choice={"function": {"name": "x" * 9000}})
    assert len(str(error)) < 200
