"""A model behind a URL: any server of the OpenAI API can be an expert, but not the meta."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import OpenAIConfig
from experts.engine.openai.client import CHAT, COMPLETIONS, RemoteClient
from experts.engine.openai.continuation_probe import ContinuationProbe, open_turn
from experts.engine.openai.request_body import chat_fields, openai_messages, sampling_fields
from experts.engine.openai.stream_reader import StreamReader
from experts.engine.openai.tasks import RemoteTasks
from experts.engine.request import EngineRequest
from experts.errors import (
    ContextLengthExceeded,
    EngineDead,
    InvalidCall,
    RemoteMisconfigured,
    RemoteUnavailable,
    TurnNotContinued,
)

if TYPE_CHECKING:  # this engine computes nothing and must not import torch
    from experts.shadow import ShadowToken
    from experts.token import ExpertToken


class OpenAIEngine:
    """Implements `Engine` as far as an expert needs it. Create it and use it on one event loop.

    Tokens have no ids here. Seeded sampling depends on the server: after a resumption it uses another seed,
    which is the same for the same position.

    Raises:
        RemoteMisconfigured: the variable with the API key is not set, or its value cannot be a key.
    """

    def __init__(self, name: str, config: OpenAIConfig) -> None:
        self._name = name
        self._config = config
        self._client = RemoteClient(name, config)
        self._continuation = ContinuationProbe(name, config, self._client)
        self._tasks = RemoteTasks(name, config, self._client)
        self._slots = asyncio.Semaphore(config.max_streams)
        self._num_requests = 0
        self._num_running = 0
        self._num_tokens = 0

    @property
    def keeps_prefixes(self) -> bool:
        return False

    @property
    def vocabulary(self) -> None:
        return None

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        """Generate, as `Engine` says.

        Raises:
            RemoteFault: the server cannot be used, or cannot continue a turn that has text.
        """
        if request.allowed or request.probe:
            raise InvalidCall("unsupported_call", None, f"{self._name} is not a meta: it cannot hand over")
        self._num_requests += 1
        received_s = time.monotonic()
        try:
            if request.task is not None:
                yield await self._perform(request)
                return
            path, body = await self._to_http(request)
            async with self._slots:
                self._num_running += 1
                sent_s = time.monotonic()
                is_first = True
                try:
                    async with aclosing(self._within_window(path, body, request.trace_headers)) as chunks:
                        async for chunk in chunks:
                            self._num_tokens += chunk.num_unnamed_tokens
                            now_s = time.monotonic()
                            yield chunk.with_times(now_s - received_s, now_s - sent_s) if is_first else chunk
                            is_first = False
                finally:
                    self._num_running -= 1
        except RemoteUnavailable:
            if not self._client.is_closed:
                raise
            yield EngineChunk(finish=FinishReason.CANCELLED)
        finally:
            self._num_requests -= 1

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        raise RemoteMisconfigured(
            f"{self._name}: a model behind a URL takes no expert tokens; it cannot be the meta"
        )

    async def check(self) -> None:
        """Checks this end only: a new replica would not repair the server.

        The first check, at the start of the replica, begins the continuation probe.
        """
        if self._client.is_closed:
            raise EngineDead(f"{self._name}: the engine is closed")
        self._continuation.start()

    def stats(self) -> EngineStats:
        """No tokens in flight: the length of a prompt is known only when it is answered."""
        num_waiting = self._num_requests - self._num_running
        return EngineStats(self._num_running, num_waiting, 0.0, self._num_tokens, 0)

    async def close(self) -> None:
        await self._continuation.close()
        await self._client.close()

    async def _perform(self, request: EngineRequest) -> EngineChunk:
        async with self._slots:
            self._num_running += 1
            try:
                return await self._tasks.perform(request)
            finally:
                self._num_running -= 1

    async def _within_window(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[EngineChunk, None]:
        """Servers refuse a limit beyond their context window, but an engine must write until the window is
        full. So a refused chat is sent again without a limit, and stopped here."""
        has_begun = False
        try:
            async with aclosing(self._chunks(path, body, headers)) as chunks:
                async for chunk in chunks:
                    has_begun = True
                    yield chunk
            return
        except ContextLengthExceeded:
            if has_begun or path != CHAT or self._config.limit_field not in body:
                raise
        num_tokens_left = body[self._config.limit_field]
        unlimited = {key: value for key, value in body.items() if key != self._config.limit_field}
        async with aclosing(self._chunks(path, unlimited, headers)) as chunks:
            async for chunk in chunks:
                yield chunk
                num_tokens_left -= chunk.num_unnamed_tokens
                if num_tokens_left <= 0 and chunk.finish is None:
                    yield EngineChunk(finish=FinishReason.LENGTH)
                    return

    async def _chunks(
        self, path: str, body: dict[str, Any], headers: Mapping[str, str]
    ) -> AsyncGenerator[EngineChunk, None]:
        reader = StreamReader(self._name)
        async with aclosing(self._client.events(path, body, headers)) as events:
            async for event in events:
                yield reader.read(event)
        yield reader.last()

    async def _to_http(self, request: EngineRequest) -> tuple[str, dict[str, Any]]:
        """The path and the JSON body."""
        if request.resumed is not None and request.has_grammar:
            raise TurnNotContinued(f"{self._name}: an answer under a grammar cannot be continued by a server")
        written = request.written + (request.resumed.text if request.resumed else "")
        options = self._options(request)
        if request.messages is not None and not written:
            return CHAT, {**options, "messages": [*openai_messages(request.messages)]}
        if request.messages is not None:
            await self._require_continuation()
            return CHAT, {**options, **open_turn(openai_messages(request.messages), written)}
        if request.text is not None:
            return COMPLETIONS, {**options, "prompt": request.text + written}
        if written:
            raise TurnNotContinued(f"{self._name}: text cannot be appended to token ids; send text")
        return COMPLETIONS, {**options, "prompt": list(request.ids or ())}

    async def _require_continuation(self) -> None:
        if not await self._continuation.is_possible():
            raise TurnNotContinued(
                f"{self._name}: {self._config.url} cannot continue an answer that has text already; set "
                "routing.when: start, or remote.continuation: always if you know that it can"
            )

    def _options(self, request: EngineRequest) -> dict[str, Any]:
        """All options, in every request, because a server's defaults may depend on its model."""
        options: dict[str, Any] = {
            "model": self._config.model,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": request.temperature,
            "top_p": request.top_p,
        }
        if request.max_tokens is not None:
            # The newer name of the limit exists only for chats.
            limit_field = self._config.limit_field if request.messages is not None else "max_tokens"
            options[limit_field] = request.max_tokens
        if request.top_k:
            options["top_k"] = request.top_k
        if request.seed is not None:
            options["seed"] = (request.seed + request.position) % 2**63
        is_chat = request.messages is not None
        options |= sampling_fields(request.sampling, is_chat=is_chat) if request.sampling else {}
        options |= chat_fields(request.chat) if is_chat and request.chat else {}
        return options
