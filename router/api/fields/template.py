"""The fields that say how a chat template renders a conversation."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.strict import MAX_INT32, MAX_NAMES, JsonObject, StrictRequest
from router.errors import InvalidRequest

# The renderer sets these itself; some are options of the renderer, not variables of the template.
RESERVED_VARIABLES = frozenset(
    (
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "tokenize",
        "tools",
        "tokenizer_kwargs",
        "return_dict",
        "return_tensors",
        "return_assistant_tokens_mask",
        "padding",
        "truncation",
        "max_length",
    )
)
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class ReasoningOptions(StrictRequest):
    effort: Effort | None = None
    enabled: bool | None = None


class TruncationFields(StrictRequest):
    """−1: as many tokens as the window holds beside the answer."""

    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, le=MAX_INT32, json_schema_extra={"not": {"const": 0}}
    )

    @field_validator("truncate_prompt_tokens")
    @classmethod
    def _keeps_some(cls, value: int | None) -> int | None:
        if value == 0:
            raise PydanticCustomError("zero", "must be -1, or 1 and more")
        return value


class TemplateFields(StrictRequest):
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    documents: list[JsonObject] = Field(default_factory=list, max_length=MAX_NAMES, fail_fast=True)
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    enable_thinking: bool | None = None

    @model_validator(mode="after")
    def _opens_one_turn(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message and add_generation_prompt contradict each other: send one",
                "continue_final_message",
            )
        reserved = sorted(RESERVED_VARIABLES & self.chat_template_kwargs.keys())
        if reserved:
            raise InvalidRequest(
                f"chat_template_kwargs: {reserved[0]} cannot be set here", "chat_template_kwargs"
            )
        return self

    @property
    def template_kwargs(self) -> dict[str, Any]:
        """The variables for the template. An effort also switches thinking on or off, under the two names
        that templates use; a variable that the request sets itself stays as it is."""
        effort, thinks = self.reasoning_effort, self.enable_thinking
        if self.reasoning is not None:
            effort = effort or self.reasoning.effort
            thinks = self.reasoning.enabled if thinks is None else thinks
        if thinks is None and effort is not None:
            thinks = effort != "none"
        given = {"reasoning_effort": effort, "enable_thinking": thinks, "thinking": thinks}
        return {k: v for k, v in given.items() if v is not None} | self.chat_template_kwargs
