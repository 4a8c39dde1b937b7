"""Tools, calls and results as text, for chat templates that have no place for them.

The form is that of the Hermes models, which many models have seen: JSON between <tool_call> marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from experts.chat_template import Message

INSTRUCTION = """\
You can call functions. These are their signatures, one for each line, between <tools> marks:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as a JSON object between <tool_call> marks:
<tool_call>
{{"name": "the function", "arguments": {{"an argument": "its value"}}}}
</tool_call>
Its result follows between <tool_response> marks."""


def with_tools_as_text(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    """The conversation without `tool_calls` and without the role `tool`; a system message has the `tools`."""
    conversation: list[Message] = []
    for are_results, group in groupby(messages, lambda message: message["role"] == "tool"):
        if are_results:
            results = (f"<tool_response>\n{message['content']}\n</tool_response>" for message in group)
            conversation.append({"role": "user", "content": "\n".join(results)})
        else:
            conversation += map(_with_calls_as_text, group)
    return _with_instruction(conversation, tools) if tools else conversation


def _with_calls_as_text(message: Message) -> Message:
    if not isinstance(message["content"], str):  # a user's, with pictures
        return message
    calls = [_dumped(call["function"]) for call in message.get("tool_calls", ())]
    texts = [message["content"], *(f"<tool_call>\n{call}\n</tool_call>" for call in calls)]
    rest = {name: value for name, value in message.items() if name not in ("tool_calls", "content")}
    return {**rest, "content": "\n".join(text for text in texts if text)}


def _with_instruction(messages: list[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
    instruction = INSTRUCTION.format(tools="\n".join(map(_dumped, tools)))
    if messages[0]["role"] != "system":
        return [{"role": "system", "content": instruction}, *messages]
    return [{**messages[0], "content": f"{messages[0]['content']}\n\n{instruction}"}, *messages[1:]]


def _dumped(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False)
