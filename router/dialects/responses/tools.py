"""The tools of a request, and which of them a model may call or has to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from router.api.fields.strict import Name, StrictRequest
from router.api.fields.tools import MAX_TOOLS, MODES, FunctionDefinition
from router.dialects.responses.typed import parse_list, parse_typed
from router.errors import InvalidRequest


class FunctionTool(FunctionDefinition):
    """Unlike in a chat request, the definition is not in an object of its own."""

    type: Literal["function"]


class NamespaceTool(StrictRequest):
    """Functions whose names may be those of functions elsewhere."""

    type: Literal["namespace"]
    name: Name
    description: str = ""
    tools: list[FunctionTool] = Field(min_length=1, max_length=MAX_TOOLS, fail_fast=True)


ResponseTool = FunctionTool | NamespaceTool

_KINDS: dict[str, type[ResponseTool]] = {"function": FunctionTool, "namespace": NamespaceTool}
_NO_SEARCH = 'nothing is searched here; leave it out (in Codex: web_search = "disabled")'
_REMEDIES = {
    "web_search": _NO_SEARCH,
    "web_search_preview": _NO_SEARCH,
    "file_search": "nothing is searched here; offer a function that does",
    "tool_search": "send the tools themselves",
    "custom": "offer a function with one text as its parameter",
    "local_shell": "offer a function that runs a command",
    "shell": "offer a function that runs a command",
    "apply_patch": "offer a function that applies a patch",
    "mcp": "the client runs all tools; offer those of the MCP server as functions",
    "image_generation": "models here write text only; leave it out",
}


def parse_tools(value: Any) -> list[ResponseTool]:
    """Raises InvalidRequest if a tool is invalid, or the server would have to run it."""
    tools = parse_list("tools", value, MAX_TOOLS, _parse_tool)
    if sum(1 for _ in functions(tools)) > MAX_TOOLS:
        raise InvalidRequest(f"tools: at most {MAX_TOOLS} functions are allowed", "tools")
    return tools


def functions(tools: Iterable[ResponseTool]) -> Iterator[tuple[str | None, FunctionTool]]:
    """All functions, each with its namespace."""
    for tool in tools:
        if isinstance(tool, FunctionTool):
            yield None, tool
        else:
            yield from ((tool.name, function) for function in tool.tools)


def flat_name(namespace: str | None, name: str) -> str:
    """The name of a function as models see it: they know no namespaces."""
    return name if namespace is None else f"{namespace}__{name}"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """`chat_choice` is the `tool_choice` of a chat request, `given` that of the client. `allowed` None: a
    model may call every function."""

    chat_choice: Any
    given: Any
    allowed: frozenset[str] | None = None


def parse_choice(value: Any) -> ToolChoice:
    """Raises InvalidRequest if it is none of OpenAI's forms, or names a tool that is not a function."""
    if isinstance(value, str) and value in MODES:
        return ToolChoice(value, value)
    if not isinstance(value, dict):
        raise InvalidRequest(f"tool_choice must be one of {', '.join(MODES)}, or an object", "tool_choice")
    if value.get("type") != "allowed_tools":
        return ToolChoice({"function": {"name": _function_name("tool_choice", value)}}, value)
    mode = value.get("mode")
    if mode not in ("auto", "required"):
        raise InvalidRequest("tool_choice.mode must be auto or required", "tool_choice.mode")
    names = parse_list("tool_choice.tools", value.get("tools"), MAX_TOOLS, _function_name, min_length=1)
    return ToolChoice(mode, value, frozenset(names))


class NamedFunction(StrictRequest):
    type: Literal["function"]
    name: Name
    namespace: Name | None = None


class AllowedTools(StrictRequest):
    """For the OpenAPI document."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction] = Field(min_length=1, max_length=MAX_TOOLS)


def _parse_tool(path: str, value: Any) -> ResponseTool:
    return parse_typed(path, value, _KINDS, _REMEDIES)


def _function_name(path: str, value: Any) -> str:
    named = parse_typed(path, value, {"function": NamedFunction}, {})
    return flat_name(named.namespace, named.name)
