"""Pictures in the results of tools, as messages that every model takes.

Chat templates and servers know pictures in messages of the user alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from router.prompt import Media, Message, joined

INTRODUCTION = "The pictures in these results, in their order:"


def with_pictures_after_results(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The conversation with the pictures of results in a message of the user behind them.

    A placeholder stays in each result. If the user says something there anyway, the pictures go before it.
    """
    if not any(message.media and message.role == "tool" for message in messages):  # nearly always
        return tuple(messages)
    return tuple(_moved(messages))


def _moved(messages: Sequence[Message]) -> Iterator[Message]:
    pictures: list[Media] = []
    call_id = None
    for are_results, group in groupby(messages, lambda message: message.role == "tool"):
        for message in group:
            if are_results:
                pictures += message.media
                call_id = message.tool_call_id
                yield replace(message, media=())
                continue
            if pictures and message.role == "user":
                yield _shown(pictures, message)
            else:
                yield from [_shown(pictures, Message("user", "", tool_call_id=call_id))] if pictures else []
                yield message
            pictures = []
    if pictures:
        yield _shown(pictures, Message("user", "", tool_call_id=call_id))


def _shown(pictures: Sequence[Media], message: Message) -> Message:
    """The message with the pictures before what it says."""
    content, media = joined([INTRODUCTION, *pictures, *message.parts()])
    return replace(message, content=content, media=media)
