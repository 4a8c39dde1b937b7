"""What a model is to answer: a conversation, or a raw prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from router.media_rules import Modality


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that an assistant message made. `arguments` is JSON."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Media:
    """A picture, a recording or a file in a message, whose placeholder stands at `offset` of its content.

    `url` is a `data:` URI; before the router has fetched a picture it may be another one. `digest` stands
    for the data once it is checked. `detail` is how closely a picture is looked at, `name` that of a file.
    """

    modality: Modality
    url: str = field(repr=False)
    detail: str | None = None
    name: str | None = None
    digest: str = ""
    offset: int = 0

    @property
    def placeholder(self) -> str:
        """What a model reads in its place that cannot read it."""
        return f"[{self.modality}]"


@dataclass(frozen=True, slots=True)
class Message:
    """`tool_calls` and `reasoning` are of assistant messages, `tool_call_id` of tool messages. On a message
    of the user, it says that the text came together with the result of that call; no model gets it.

    `name` is that of a participant or of the called tool. `author` is the model that wrote an assistant
    message, if the client says so; no model gets it. `content` has a placeholder for each of `media`.
    """

    role: str
    content: str
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    tool_call_id: str | None = None
    name: str | None = None
    author: str | None = field(default=None, repr=False)
    media: tuple[Media, ...] = ()

    def parts(self) -> Iterator[str | Media]:
        """What `joined` has joined, without empty texts."""
        end = 0
        for each in self.media:
            if text := self.content[end : each.offset].removesuffix("\n"):
                yield text
            yield each
            end = each.offset + len(each.placeholder)
            end += self.content.startswith("\n", end)
        if text := self.content[end:]:
            yield text

    def reworded(self, content: str) -> Message:
        """The message with another text. The media stay in the old text, if that is a part of the new one."""
        start = content.find(self.content)
        if start < 0 and self.media:
            content, moved = joined([*self.media, content])
        else:
            moved = tuple(replace(each, offset=start + each.offset) for each in self.media)
        return replace(self, content=content, media=moved)


def joined(parts: Iterable[str | Media]) -> tuple[str, tuple[Media, ...]]:
    """The parts as one text, each on lines of its own, and the media with the offsets of their places."""
    texts, media, offset = list[str](), list[Media](), 0
    for part in parts:
        text = part if isinstance(part, str) else part.placeholder
        if not isinstance(part, str):
            media.append(replace(part, offset=offset))
        texts.append(text)
        offset += len(text) + 1
    return "\n".join(texts), tuple(media)


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
    """Exactly one is given of a conversation, raw text, token ids of the model that is addressed, and
    `inputs`: texts or token ids to embed, each for itself.

    `written` is the text of a last assistant message that the answer continues. `options` None: the request
    asks for nothing further.
    """

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    written: str = ""
    options: ChatOptions | None = None
    inputs: tuple[str | tuple[int, ...], ...] | None = None

    @property
    def media(self) -> Iterator[Media]:
        return (each for message in self.messages or () for each in message.media)

    @property
    def modalities(self) -> frozenset[Modality]:
        """What a model has to read besides text."""
        return frozenset(each.modality for each in self.media)

    def without_media(self) -> Prompt:
        """The same with nothing but the placeholders."""
        return self.with_media(())

    def with_media(self, media: Iterable[Media]) -> Prompt:
        """The same with the next of these in each place; with a placeholder alone once there is no next."""
        rest = iter(media)
        messages = [
            replace(each, media=tuple(islice(rest, len(each.media)))) if each.media else each
            for each in self.messages or ()
        ]
        return replace(self, messages=tuple(messages) if self.messages is not None else None)
