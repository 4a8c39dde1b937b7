"""One choice of an answer: what the client gets of it, as a whole or piece by piece."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any

from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.generation import Done
from router.model_port import Finish
from router.parts import TokenLogprobs


@dataclass(slots=True)
class Choice:
    """Collects the items of one stream."""

    text: str = ""
    reasoning: str = ""
    calls: dict[int, dict[str, Any]] = field(default_factory=dict)  # by index, as OpenAI has them
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprobs, ...] = ()
    done: Done | None = None

    def add(self, item: Delta | Done) -> None:
        match item:
            case TextDelta():
                self.text += item.text
                self.logprobs += item.logprobs
            case ReasoningDelta():
                self.reasoning += item.text
            case ToolCallDelta():
                self._add_call(item)
            case PromptDelta():
                self.prompt_logprobs = item.logprobs
            case Done():
                self.done = item

    def _add_call(self, item: ToolCallDelta) -> None:
        call = self.calls.setdefault(item.index, call_fields(item))
        if item.name is None:
            call["function"]["arguments"] += item.arguments


async def without(
    hidden: tuple[type[Delta], ...], stream: AsyncGenerator[Delta | Done, None], *, writes_nothing: bool
) -> AsyncGenerator[Delta | Done, None]:
    """The stream without these items. If a client wants nothing written, the end does not count a token."""
    async with aclosing(stream) as items:
        async for item in items:
            if isinstance(item, Done) and writes_nothing:
                yield replace(item, finish=Finish.LENGTH, num_completion_tokens=0, has_tool_calls=False)
            elif not isinstance(item, hidden):
                yield item


def call_fields(item: ToolCallDelta) -> dict[str, Any]:
    """A tool call, or the next piece of one, as OpenAI has it."""
    if item.name is None:
        return {"function": {"arguments": item.arguments}}
    return {
        "id": item.id,
        "type": "function",
        "function": {"name": item.name, "arguments": item.arguments},
    }


def delta_fields(item: Delta, *, legacy_functions: bool) -> dict[str, Any]:
    """`delta` of a streamed chat choice."""
    match item:
        case TextDelta(text="") | PromptDelta():
            return {}
        case TextDelta():
            return {"content": item.text}
        case ReasoningDelta():
            return {"reasoning": item.text}
        case ToolCallDelta() if legacy_functions:
            return {"function_call": call_fields(item)["function"]}
        case ToolCallDelta():
            return {"tool_calls": [{"index": item.index, **call_fields(item)}]}


def message_fields(choice: Choice, *, legacy_functions: bool) -> dict[str, Any]:
    """`message` of a whole chat choice."""
    calls = [choice.calls[index] for index in sorted(choice.calls)]
    content = None if calls and not choice.text else choice.text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if choice.reasoning:
        message["reasoning"] = choice.reasoning
    if calls and legacy_functions:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    return message


def finish_reason(done: Done, *, legacy_functions: bool) -> str:
    if done.has_tool_calls and done.finish is Finish.STOP:
        return "function_call" if legacy_functions else "tool_calls"
    return done.finish.value
