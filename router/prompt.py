"""What a model is to answer: a conversation, or a raw prompt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant message made. `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` and `reasoning` are of assistant messages, `tool_call_id` of tool messages. On a message
    of the user, it says that the text came together with the result of that call; no model gets it.

    `name` is that of a participant or of the called tool. `author` is the model that wrote an assistant
    message, if the client says so; no model gets it.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    author: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """What few requests ask of the chat template and of the parser of its output.

    `tools` are OpenAI's. `tool_choice` is `auto`, `none`, `required`, or the name of the function to call.
    `template_kwargs` are further variables of the template, such as `enable_thinking`. The last four are
    vLLM's request fields of these names.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    documents: tuple[Mapping[str, Any], ...] = ()
    chat_template: str | None = None
    truncate_prompt_tokens: int | None = None
    add_generation_prompt: bool = True


@dataclass(frozen=True, slots=True)
class Prompt:
    """Exactly one of the first three: a conversation, raw text, or token ids of the model that is addressed.

    `written` is the text of a last assistant message that the answer continues. `options` None: the request
    asks for nothing further.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    written: str = ""
    options: ChatOptions | None = None
