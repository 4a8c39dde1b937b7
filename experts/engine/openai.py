"""A model behind a URL: whatever speaks the OpenAI API can be an expert. Never the meta."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from experts.engine.base import Call, Chunk, FinishReason, Stats
from experts.engine.config import OpenAIConfig
from experts.engine.continuation import Continuation, open_turn
from experts.engine.remote_answer import RemoteAnswer
from experts.engine.remote_client import CHAT, COMPLETIONS, RemoteClient
from experts.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidCall,
    RemoteMisconfigured,
    RemoteUnavailable,
    TurnNotContinued,
)

if TYPE_CHECKING:  # the server computes; here nothing needs torch
    from experts.token import ExpertToken


class OpenAIEngine:
    """Keeps the contract of `Engine`, as far as an expert needs it; make and use it on one event loop.

    Tokens have no ids here, and a seeded draw depends on the server's own generator: after a resumption it
    is another one, the same for the same position.

    Raises:
        RemoteMisconfigured: there is no usable key where one is to be.
    """

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        self._name = name
        self._config = config
        self._client = RemoteClient(name, config)
        self._continuation = Continuation(name, config, self._client)
        self._slots = asyncio.Semaphore(config.max_streams)
        self._num_open = 0
        self._num_running = 0
        self._num_tokens = 0

    @property
    def keeps_prefixes(self) -> bool:
        return False

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        """As the contract says.

        Raises:
            RemoteFault: the server cannot be used, or cannot go on in a turn that has begun.
        """
        if call.allowed or call.probe:
            raise InvalidCall("unsupported_call", None, f"{self._name} is no meta: it cannot hand over")
        self._num_open += 1
        called_s = time.monotonic()
        try:
            path, body = await self._request(call)
            async with self._slots:
                self._num_running += 1
                sent_s = time.monotonic()
                is_first = True
                try:
                    async with aclosing(self._within_window(path, body)) as chunks:
                        async for chunk in chunks:
                            self._num_tokens += chunk.num_unnamed_tokens
                            now_s = time.monotonic()
                            yield chunk.timed(now_s - called_s, now_s - sent_s) if is_first else chunk
                            is_first = False
                finally:
                    self._num_running -= 1
        except RemoteUnavailable:
            if not self._client.is_closed:
                raise
            yield Chunk(finish=FinishReason.CANCELLED)
        finally:
            self._num_open -= 1

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        raise RemoteMisconfigured(f"{self._name}: a model behind a URL takes no expert tokens; it is no meta")

    async def check(self) -> None:
        """Whether this end is well: to replace the replica would not bring the server back.

        The first time, which is when the replica starts, it begins to find out what the server can do.
        """
        if self._client.is_closed:
            raise EngineDead(f"{self._name}: the engine is closed")
        self._continuation.look()

    def stats(self) -> Stats:
        """How many tokens prompts have is known only when they are answered, so none count as in flight."""
        return Stats(self._num_running, self._num_open - self._num_running, 0.0, self._num_tokens, 0)

    async def close(self) -> None:
        await self._continuation.close()
        await self._client.close()

    async def _within_window(self, path: str, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        """Servers refuse a limit beyond their window, where an engine writes until its window is full: as
        does a chat without a limit."""
        begun = False
        try:
            async with aclosing(self._chunks(path, body)) as chunks:
                async for chunk in chunks:
                    begun = True
                    yield chunk
            return
        except ContextLengthExceeded:
            if begun or path != CHAT or self._config.limit_field not in body:
                raise
        limit = body[self._config.limit_field]
        unlimited = {key: value for key, value in body.items() if key != self._config.limit_field}
        async with aclosing(self._chunks(path, unlimited)) as chunks:
            async for chunk in chunks:
                yield chunk
                limit -= chunk.num_unnamed_tokens
                if limit <= 0 and chunk.finish is None:
                    yield Chunk(finish=FinishReason.LENGTH)
                    return

    async def _chunks(self, path: str, body: dict[str, Any]) -> AsyncGenerator[Chunk, None]:
        answer = RemoteAnswer(self._name)
        async with aclosing(self._client.events(path, body)) as events:
            async for event in events:
                yield answer.read(event)
        yield answer.last()

    async def _request(self, call: Call) -> tuple[str, dict[str, Any]]:
        """Where the call goes, and the body of it."""
        written = call.written + (call.resumed.text if call.resumed else "")
        options = self._options(call)
        if call.messages is not None and not written:
            return CHAT, {**options, "messages": [dict(message) for message in call.messages]}
        if call.messages is not None:
            await self._require_continuation()
            return CHAT, {**options, **open_turn(call.messages, written)}
        if call.text is not None:
            return COMPLETIONS, {**options, "prompt": call.text + written}
        if written:
            raise TurnNotContinued(f"{self._name}: text cannot be appended to token ids; send text")
        return COMPLETIONS, {**options, "prompt": list(call.ids or ())}

    async def _require_continuation(self) -> None:
        if not await self._continuation.is_possible():
            raise TurnNotContinued(
                f"{self._name}: {self._config.url} only begins answers, and this one has text already; let "
                "experts be called at the start alone, or set remote.continuation: always if you know better"
            )

    def _options(self, call: Call) -> dict[str, Any]:
        """Always all of it: a server's own defaults may come with its model."""
        options: dict[str, Any] = {
            "model": self._config.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": call.temperature,
            "top_p": call.top_p,
        }
        if call.max_tokens is not None:
            # Only chats have the newer name of the limit.
            name = self._config.limit_field if call.messages is not None else "max_tokens"
            options[name] = call.max_tokens
        if call.top_k:
            options["top_k"] = call.top_k
        if call.seed is not None:
            options["seed"] = (call.seed + call.position) % 2**63
        return options
