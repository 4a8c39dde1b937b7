"""Whether a server goes on in an assistant turn that has text in it: found out by asking, not by its word.

Servers that do not know the two fields ignore them, and begin a new turn after the text; nothing in their
answer says so. So the server is asked three times, greedily: for the first token of an answer, for more of
it, and to go on after the first token. It is taken to continue if

- the third prompt is longer than the first by exactly one token. No text has less, and to close a turn takes
  at least another, whether or not a new one is opened then; and
- the third answer is what followed the first token, character for character, and is not empty. This finds
  out servers that count otherwise than they read.

A question that proves nothing (the token is no whole text or the only one, nothing is counted) is followed by
another. A server that continues may fail to prove it. One that does not would have to count wrongly by just
as much as it takes to close a turn, and write the same words in a new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from experts.engine.config import OpenAIConfig
from experts.engine.remote_answer import RemoteAnswer
from experts.engine.remote_client import CHAT, RemoteClient
from experts.errors import InvalidCall, RemoteFault

logger = logging.getLogger(__name__)

OPEN_TURN = {"add_generation_prompt": False, "continue_final_message": True}
NUM_MORE_TOKENS = 8
QUESTIONS = (
    "Write the numbers from one to twenty in words, separated by commas.",
    "Name the days of the week in order, beginning with Monday.",
    "Write down the English alphabet in lower case, separated by spaces.",
    "Hello! Who are you?",
)


def open_turn(messages: tuple[Mapping[str, str], ...], written: str) -> dict[str, Any]:
    """The part of a chat request that has the server go on after `written`."""
    turn = {"role": "assistant", "content": written}
    return {"messages": [*map(dict, messages), turn], **OPEN_TURN}


class Continuation:
    """Asks once, when somebody needs to know or `look` is called; then it is known."""

    def __init__(self, name: str, config: OpenAIConfig, client: RemoteClient) -> None:
        self._name = name
        self._config = config
        self._client = client
        self._known = {"always": True, "never": False}.get(config.continuation)
        self._lock = asyncio.Lock()
        self._looking: asyncio.Task[None] | None = None

    async def is_possible(self) -> bool:
        """Raises RemoteFault where the server cannot be asked now."""
        async with self._lock:
            if self._known is None:
                self._known = await self._is_proven()
                how = "continues open turns" if self._known else "was not seen to continue an open turn"
                logger.info("%s: the server %s", self._name, how)
            return self._known

    def look(self) -> None:
        """Begin to find out, without waiting for it."""
        if self._known is None and self._looking is None:
            self._looking = asyncio.create_task(self._look(), name=f"continuation of {self._name}")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})

    async def _look(self) -> None:
        with suppress(RemoteFault):  # whoever needs to know asks again
            await self.is_possible()

    async def _is_proven(self) -> bool:
        for question in QUESTIONS:
            with suppress(InvalidCall):  # strict servers refuse fields that they do not know
                if await self._continues(({"role": "user", "content": question},)):
                    return True
        return False

    async def _continues(self, messages: tuple[Mapping[str, str], ...]) -> bool:
        question = {"messages": [*messages]}
        first = await self._ask(question, 1)
        if first.num_prompt_tokens is None or first.num_completion_tokens != 1 or not _is_plain(first.text):
            return False
        whole = await self._ask(question, 1 + NUM_MORE_TOKENS)
        more = await self._ask(open_turn(messages, first.text), NUM_MORE_TOKENS)
        is_one_longer = more.num_prompt_tokens == first.num_prompt_tokens + 1
        return is_one_longer and more.text != "" and first.text + more.text == whole.text

    async def _ask(self, question: Mapping[str, Any], max_tokens: int) -> RemoteAnswer:
        """As every call is asked: streamed, for a server may do otherwise when it does not stream."""
        answer = RemoteAnswer(self._name)
        body = {
            "model": self._config.model,
            **question,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": 0.0,
            self._config.limit_field: max_tokens,
        }
        async with aclosing(self._client.events(CHAT, body)) as events:
            async for event in events:
                answer.read(event)
        return answer


def _is_plain(text: str) -> bool:
    """Text that reads back as it was written: no half character, and no blank for a template to trim."""
    return bool(text) and text == text.strip() and "\ufffd" not in text
