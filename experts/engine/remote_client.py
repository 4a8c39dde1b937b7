"""The way to a server of the OpenAI API: connections, retries, events; its failures in our own words."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError

from experts.engine.config import OpenAIConfig
from experts.engine.remote_refusal import Refusal
from experts.errors import ExpertsError, RemoteMisconfigured, RemoteUnavailable

CHAT = "/chat/completions"
COMPLETIONS = "/completions"

FIRST_PAUSE_S = 0.2
MAX_PAUSE_S = 5.0  # a server that wants to be left alone for longer is left to the router
MAX_ERROR_BYTES = 65_536
READ_OUT_S = 0.1
# A kept connection that the server has just closed fails like this too. Silence is not among them: what was
# waited for in vain for so long would be waited for again.
BROKEN = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)
PASSING = (429, 502, 503, 504)


class RemoteClient:
    """`name` is the model's own, for messages.

    Raises:
        RemoteMisconfigured: the key's variable is not set, or holds what cannot be sent.
    """

    def __init__(
        self, name: str, config: OpenAIConfig, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._name = name
        self._config = config
        self._key = _key(name, config.api_key_env)
        self._http = httpx.AsyncClient(
            transport=transport,
            headers={"authorization": f"Bearer {self._key}"} if self._key else None,
            timeout=httpx.Timeout(config.read_timeout_s, connect=config.connect_timeout_s),
            # One more than streams, for the question whether the server continues a turn.
            limits=httpx.Limits(max_connections=config.max_streams + 1, max_keepalive_connections=None),
        )

    @property
    def is_closed(self) -> bool:
        return self._http.is_closed

    async def events(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        """What the server streams, up to [DONE] or the end. Closing the generator closes the connection.

        Raises:
            InvalidCall: the server refuses this call.
            RemoteFault: the server cannot be used, at all or now.
        """
        async with self._opened(path, body) as response:
            try:
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        if event.data == "[DONE]":
                            await _read_out(events)
                            return
                        if event.data:
                            yield self._content(event.data, path)
            except SSEError as error:
                raise RemoteMisconfigured(f"{self._name}: {self._config.url} does not stream") from error
            except httpx.RequestError as error:
                raise self._unreached(error) from error

    async def close(self) -> None:
        """Whoever reads gets RemoteUnavailable."""
        await self._http.aclose()

    @asynccontextmanager
    async def _opened(self, path: str, body: Mapping[str, Any]) -> AsyncIterator[httpx.Response]:
        """The response to a call, tried again as long as nothing has come back."""
        num_left, pause_s = self._config.retries, FIRST_PAUSE_S
        while True:
            try:
                response = await self._send(path, body)
            except BROKEN as error:
                if not num_left:
                    raise self._unreached(error) from error
            except httpx.RequestError as error:
                raise self._unreached(error) from error
            else:
                try:
                    self._require_open()  # what was connecting meanwhile was not closed with the rest
                    if response.status_code == httpx.codes.OK:
                        yield response
                        return
                    asked_s = _retry_after_s(response)
                    if not num_left or response.status_code not in PASSING or asked_s > MAX_PAUSE_S:
                        raise await self._refused(response, path)
                    pause_s = max(pause_s, asked_s)
                finally:
                    await response.aclose()
            await asyncio.sleep(pause_s * random.uniform(1.0, 1.5))
            num_left, pause_s = num_left - 1, 2 * pause_s

    async def _send(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        self._require_open()
        fields = {name: value for name, value in body.items() if name not in self._config.omit}
        request = self._http.build_request("POST", self._config.url + path, json=fields)
        return await self._http.send(request, stream=True)

    def _require_open(self) -> None:
        if self.is_closed:
            raise RemoteUnavailable(f"{self._name}: this replica is shutting down")

    async def _refused(self, response: httpx.Response, path: str) -> ExpertsError:
        body = b""
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ERROR_BYTES:
                    break
        except httpx.RequestError as error:
            return self._unreached(error)
        return self._translated(Refusal.of_body(response.status_code, body), path)

    def _content(self, data: str, path: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise self._no_server_of_ours() from error
        if not isinstance(event, dict):
            raise self._no_server_of_ours()
        if event.get("error"):
            raise self._translated(Refusal.of_error(event["error"]), path)
        return event

    def _translated(self, refusal: Refusal, path: str) -> ExpertsError:
        return refusal.translated(self._name, self._config, self._key, is_chat=path == CHAT)

    def _unreached(self, error: httpx.RequestError) -> RemoteUnavailable:
        # Not the error's own message: of some it is what the server sent.
        return RemoteUnavailable(f"{self._name}: no answer from {self._config.url} ({type(error).__name__})")

    def _no_server_of_ours(self) -> RemoteMisconfigured:
        return RemoteMisconfigured(
            f"{self._name}: {self._config.url} streams no OpenAI chunks; correct remote.url"
        )


def _key(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    place = f"{name}: remote.api_key_env: the environment variable {variable}"
    if not key:
        raise RemoteMisconfigured(f"{place} is not set on this node; set it where Ray is started")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RemoteMisconfigured(f"{place} holds characters that no key has; correct it")
    return key


async def _read_out(events: AsyncGenerator[Any, None]) -> None:
    """Only a response that was read to its end leaves its connection to the next call."""
    with suppress(TimeoutError, httpx.RequestError):
        async with asyncio.timeout(READ_OUT_S):
            async for _ in events:
                pass


def _retry_after_s(response: httpx.Response) -> float:
    """In seconds; a date, which HTTP allows too, counts as nothing said."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0
