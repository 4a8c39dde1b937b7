"""The grammar of calls that a request forces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from experts.engine.request import ChatOptions, EngineRequest, Grammar, GrammarKind, SamplingOptions
from experts.errors import InvalidPrompt

_NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}}


def with_forced_calls(request: EngineRequest) -> EngineRequest:
    """The request with a grammar, if its `tool_choice` forces calls; `ForcedCallParser` reads the answer.

    Raises InvalidPrompt: two tools define different things by the same name in `$defs`.
    """
    chat = request.chat
    if chat is None or not chat.tools or chat.tool_choice in ("auto", "none"):
        return request
    schema = _list_schema(chat) if chat.tool_choice == "required" else _parameters(chat, chat.tool_choice)
    grammar = Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))
    return replace(request, sampling=replace(request.sampling or SamplingOptions(), grammar=grammar))


def _list_schema(chat: ChatOptions) -> dict[str, Any]:
    """A list of `{"name": …, "parameters": …}`."""
    definitions: dict[str, Any] = {}
    calls = [_call_schema(tool["function"], definitions) for tool in chat.tools]
    schema: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
    if not chat.parallel_tool_calls:
        schema["maxItems"] = 1
    return schema | ({"$defs": definitions} if definitions else {})


def _call_schema(function: Mapping[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """`definitions` gets those of the parameters: references in a schema start at its root."""
    parameters = dict(function.get("parameters") or _NO_PARAMETERS)
    for name, definition in parameters.pop("$defs", {}).items():
        if definitions.setdefault(name, definition) != definition:
            raise InvalidPrompt("tools", f"two tools define '{name}' differently in $defs; rename one")
    return {
        "type": "object",
        "properties": {"name": {"type": "string", "enum": [function["name"]]}, "parameters": parameters},
        "required": ["name", "parameters"],
        "additionalProperties": False,
    }


def _parameters(chat: ChatOptions, name: str) -> Mapping[str, Any]:
    functions = (tool["function"] for tool in chat.tools)
    found = next((function for function in functions if function["name"] == name), None)
    if found is None:
        raise InvalidPrompt("tool_choice", f"there is no tool named '{name}'")
    return found.get("parameters") or _NO_PARAMETERS
