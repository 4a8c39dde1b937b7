"""Tests whether a server continues an assistant message that has text already.

Servers that do not know the two fields for it ignore them and begin a new turn after the text; nothing in
their answer says so. So the server gets three greedy requests: for the first token of an answer, for more of
it, and to continue after the first token. The server is taken to continue if both hold:

- The third prompt is longer than the first by exactly one token. Any text has at least one, and closing the
  turn takes at least one more, whether or not a new turn is opened then.
- The third answer is what followed the first token, character for character, and is not empty. This detects
  servers whose token counts do not match what the model reads.

If a question proves nothing (its first token is not whole text, the answer has only one token, or tokens are
not counted), another question follows. A server that continues may fail the test. A server that does
not continue passes only if it miscounts by exactly the tokens that close a turn, and begins the new turn with
the same words.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import aclosing, suppress
from typing import Any

from experts.engine.config import OpenAIConfig
from experts.engine.openai.client import CHAT, RemoteClient
from experts.engine.openai.stream_reader import StreamReader
from experts.errors import InvalidCall, RemoteFault

logger = logging.getLogger(__name__)

OPEN_TURN_FIELDS = {"add_generation_prompt": False, "continue_final_message": True}
NUM_CONTINUED_TOKENS = 8
QUESTIONS = (
    "Write the numbers from one to twenty in words, separated by commas.",
    "Name the days of the week in order, beginning with Monday.",
    "Write down the English alphabet in lower case, separated by spaces.",
    "Hello! Who are you?",
)


def open_turn(messages: tuple[Mapping[str, str], ...], written: str) -> dict[str, Any]:
    """The fields of a chat request that ask the server to continue after `written`."""
    turn = {"role": "assistant", "content": written}
    return {"messages": [*map(dict, messages), turn], **OPEN_TURN_FIELDS}


class ContinuationProbe:
    """Tests the server once, at the first `start` or `is_possible`, and remembers the result."""

    def __init__(self, name: str, config: OpenAIConfig, client: RemoteClient) -> None:
        self._name = name
        self._config = config
        self._client = client
        self._result = {"always": True, "never": False}.get(config.continuation)
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    async def is_possible(self) -> bool:
        """Whether the server continues. Raises RemoteFault if it cannot be tested now."""
        async with self._lock:
            if self._result is None:
                self._result = await self._test()
                outcome = "continues" if self._result else "did not prove that it continues"
                logger.info("%s: the server %s assistant messages that have text", self._name, outcome)
            return self._result

    def start(self) -> None:
        """Begin the test in the background."""
        if self._result is None and self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"continuation probe of {self._name}")

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _run(self) -> None:
        with suppress(RemoteFault):  # the first request that needs the result tests again
            await self.is_possible()

    async def _test(self) -> bool:
        for question in QUESTIONS:
            with suppress(InvalidCall):  # strict servers refuse fields that they do not know
                if await self._continues(({"role": "user", "content": question},)):
                    return True
        return False

    async def _continues(self, messages: tuple[Mapping[str, str], ...]) -> bool:
        question = {"messages": [*messages]}
        first = await self._answer(question, 1)
        is_one_token = first.num_completion_tokens == 1 and _is_plain(first.text)
        if first.num_prompt_tokens is None or not is_one_token:
            return False
        whole = await self._answer(question, 1 + NUM_CONTINUED_TOKENS)
        rest = await self._answer(open_turn(messages, first.text), NUM_CONTINUED_TOKENS)
        is_one_longer = rest.num_prompt_tokens == first.num_prompt_tokens + 1
        return is_one_longer and rest.text != "" and first.text + rest.text == whole.text

    async def _answer(self, question: Mapping[str, Any], max_tokens: int) -> StreamReader:
        """Streamed as all our requests are, because a server may behave differently if it does not stream."""
        reader = StreamReader(self._name)
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
                reader.read(event)
        return reader


def _is_plain(text: str) -> bool:
    """Whether text is read as it was generated: no half character, and no blanks for a template to trim."""
    return bool(text) and text == text.strip() and "\ufffd" not in text
