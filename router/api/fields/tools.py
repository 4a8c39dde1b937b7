"""The tools that a model may call, in OpenAI's present form and in its first one, `functions`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.strict import MAX_NAME_LENGTH, JsonObject, Name, StrictRequest
from router.errors import InvalidRequest

MAX_TOOLS = 128
MODES = ("none", "auto", "required")


class FunctionDefinition(StrictRequest):
    """`parameters` is a JSON schema."""

    name: Name
    description: str | None = None
    parameters: JsonObject | None = None
    strict: bool | None = None

    def to_tool(self) -> dict[str, Any]:
        return {"type": "function", "function": self.model_dump(exclude_none=True)}


class Tool(StrictRequest):
    type: Literal["function"] = "function"
    function: FunctionDefinition


class FunctionName(StrictRequest):
    name: Name


class NamedTool(StrictRequest):
    type: Literal["function"] = "function"
    function: FunctionName


def _as_choice(value: Any) -> str:
    """The mode, or the name of the function in `{"type": "function", "function": {"name": …}}`."""
    if isinstance(value, str) and value in MODES:
        return value
    if isinstance(value, dict) and value.get("type") in (None, "function"):
        function = value.get("function")
        name = (function if isinstance(function, dict) and "name" in function else value).get("name")
        if isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and name not in MODES:
            return name
    raise PydanticCustomError(
        "tool_choice", 'must be "none", "auto", "required", or an object that names a function'
    )


ToolChoice = Annotated[
    str,
    PlainValidator(
        _as_choice, json_schema_input_type=Literal["none", "auto", "required"] | NamedTool | FunctionName
    ),
]
Functions = Annotated[list[FunctionDefinition], Field(max_length=MAX_TOOLS, fail_fast=True)]


class ToolFields(StrictRequest):
    tools: list[Tool] = Field(default_factory=list, max_length=MAX_TOOLS, fail_fast=True)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: Functions = Field(default_factory=list)
    function_call: ToolChoice | None = None

    @model_validator(mode="after")
    def _has_one_set_of_tools(self) -> Self:
        if self.tools and self.functions:
            raise InvalidRequest("tools and functions are the same: send tools", "functions")
        for name, tools in (("tool_choice", self.tools), ("function_call", self.functions)):
            self._require_known(name, [tool.name for tool in self._definitions] if tools else [])
        return self

    def _require_known(self, field: str, names: list[str]) -> None:
        choice = getattr(self, field)
        if choice in (None, "none", "auto") or choice in names or (choice == "required" and names):
            return
        wanted = "tools" if choice == "required" else f"tool named '{choice}'"
        raise InvalidRequest(f"{field}: the request has no {wanted}", field)

    @property
    def legacy_functions(self) -> bool:
        """Whether the client uses `functions`, which OpenAI had before `tools`."""
        return bool(self.functions)

    def tool_options(self) -> dict[str, Any]:
        """The fields of `ChatOptions` about tools. In the first API, a model made one call at most."""
        if not self._definitions:
            return {}
        return {
            "tools": tuple(definition.to_tool() for definition in self._definitions),
            "tool_choice": self._choice,
            "parallel_tool_calls": self.parallel_tool_calls and not self.functions,
        }

    @property
    def _choice(self) -> str:
        """`none`, `auto`, `required`, or the name of the function to call."""
        return (self.function_call if self.functions else self.tool_choice) or "auto"

    @property
    def _definitions(self) -> list[FunctionDefinition]:
        return self.functions or [tool.function for tool in self.tools]
