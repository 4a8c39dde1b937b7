"""What a forced call has to look like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from experts.engine.parsing.call_grammar import with_forced_calls
from experts.engine.request import ChatOptions, EngineRequest, GrammarKind, SamplingOptions
from experts.errors import InvalidPrompt

CITY = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}}


def tool(name: str, **parameters: Any) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {"name": name, **({"parameters": parameters} if parameters else {})},
    }


def schema(*tools: dict[str, Any], choice: str, parallel: bool = True) -> dict[str, Any]:
    chat = ChatOptions(tools=tools, tool_choice=choice, parallel_tool_calls=parallel)
    sampling = with_forced_calls(EngineRequest("r", chat=chat)).sampling
    assert sampling is not None
    assert sampling.grammar is not None
    assert sampling.grammar.kind is GrammarKind.JSON_SCHEMA
    return dict(json.loads(sampling.grammar.source))


@pytest.mark.parametrize("choice", ["auto", "none"])
def test_a_choice_that_forces_nothing_changes_nothing(choice: str):
    request = EngineRequest("r", chat=ChatOptions(tools=(tool("f"),), tool_choice=choice))
    assert with_forced_calls(request) is request


def test_a_named_function_gets_its_arguments():
    assert schema(tool("f", **CITY), tool("g"), choice="f") == CITY
    assert schema(tool("f", **CITY), tool("g"), choice="g") == {"type": "object", "properties": {}}


def test_a_function_that_is_not_there_is_an_error():
    with pytest.raises(InvalidPrompt, match="no tool named 'h'"):
        schema(tool("f"), choice="h")


def test_a_required_call_may_be_of_each_tool():
    found = schema(tool("f"), tool("g"), choice="required")
    assert [call["properties"]["name"]["enum"] for call in found["items"]["anyOf"]] == [["f"], ["g"]]
    assert (found["minItems"], "maxItems" in found) == (1, False)
    assert schema(tool("f"), choice="required", parallel=False)["maxItems"] == 1


def test_references_of_parameters_still_lead_to_their_definitions():
    city = {"type": "string"}
    found = schema(tool("f", **CITY, **{"$defs": {"City": city}}), choice="required")
    assert found["$defs"] == {"City": city}
    assert "$defs" not in found["items"]["anyOf"][0]["properties"]["parameters"]


def test_two_definitions_of_one_name_are_an_error():
    tools = [
        tool(name, **CITY, **{"$defs": {"City": {"type": kind}}})
        for name, kind in (("f", "string"), ("g", "null"))
    ]
    with pytest.raises(InvalidPrompt, match="City"):
        schema(*tools, choice="required")


def test_other_options_of_sampling_stay():
    chat = ChatOptions(tools=(tool("f"),), tool_choice="f")
    request = with_forced_calls(EngineRequest("r", chat=chat, sampling=SamplingOptions(min_p=0.5)))
    assert request.sampling is not None
    assert request.sampling.min_p == 0.5
