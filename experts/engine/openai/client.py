"""HTTP client for a server that speaks the OpenAI API: connections, retries, events, and errors."""

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
from experts.engine.openai.error_mapping import ErrorReply
from experts.errors import ExpertsError, RemoteMisconfigured, RemoteUnavailable

CHAT = "/chat/completions"
COMPLETIONS = "/completions"
EMBEDDINGS = "/embeddings"
TOKENIZE, DETOKENIZE = ROOT_PATHS = ("/tokenize", "/detokenize")  # of vLLM, which has them beside `/v1`

FIRST_RETRY_DELAY_S = 0.2
MAX_RETRY_DELAY_S = 5.0  # if the server asks for more, the router decides
MAX_ERROR_BYTES = 65_536
DRAIN_TIMEOUT_S = 0.1
# Includes what httpx raises if the server has just closed a kept-alive connection. A read timeout is not
# included, because the same wait would follow again.
RETRYABLE_ERRORS = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.ReadError,
    httpx.WriteError,
    httpx.RemoteProtocolError,
)
RETRYABLE_STATUSES = (429, 502, 503, 504)


class RemoteClient:
    """`name` is the model's own, for messages.

    Raises:
        RemoteMisconfigured: the variable with the API key is not set, or its value cannot be a key.
    """

    def __init__(
        self, name: str, config: OpenAIConfig, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._name = name
        self._config = config
        self._api_key = _read_api_key(name, config.api_key_env)
        self._http = httpx.AsyncClient(
            transport=transport,
            headers={"authorization": f"Bearer {self._api_key}"} if self._api_key else None,
            timeout=httpx.Timeout(config.read_timeout_s, connect=config.connect_timeout_s),
            # One more than streams, for the continuation probe.
            limits=httpx.Limits(max_connections=config.max_streams + 1, max_keepalive_connections=None),
        )

    @property
    def is_closed(self) -> bool:
        return self._http.is_closed

    async def events(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """POST `body` and yield what the server streams, up to [DONE] or the end of the response.

        Closing the generator closes the connection.

        Raises:
            InvalidCall: the server refuses this request.
            RemoteFault: the server cannot be used, at all or at present.
        """
        async with self._response(path, body, headers) as response:
            try:
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    async for event in events:
                        if event.data == "[DONE]":
                            await _drain(events)
                            return
                        if event.data:
                            yield self._parse(event.data, path)
            except SSEError as error:
                raise RemoteMisconfigured(f"{self._name}: {self._config.url} does not stream") from error
            except httpx.RequestError as error:
                raise self._unavailable(error) from error

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """POST `body` and return the whole JSON object of the response. Raises as `events`."""
        async with self._response(path, body, headers) as response:
            try:
                data = await response.aread()
            except httpx.RequestError as error:
                raise self._unavailable(error) from error
        # In a thread: embeddings are megabytes of JSON.
        return await asyncio.to_thread(lambda: self._parse(data.decode(errors="replace"), path))

    async def close(self) -> None:
        """Close all connections. Readers of events get RemoteUnavailable."""
        await self._http.aclose()

    @asynccontextmanager
    async def _response(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None
    ) -> AsyncIterator[httpx.Response]:
        """The response with status 200; retries until part of it has arrived."""
        num_retries_left, delay_s = self._config.retries, FIRST_RETRY_DELAY_S
        while True:
            try:
                response = await self._send(path, body, headers)
            except RETRYABLE_ERRORS as error:
                if not num_retries_left:
                    raise self._unavailable(error) from error
            except httpx.RequestError as error:
                raise self._unavailable(error) from error
            else:
                try:
                    self._require_open()  # `close` does not end requests that are still connecting
                    if response.status_code == httpx.codes.OK:
                        yield response
                        return
                    retry_after_s = _retry_after_s(response)
                    is_retryable = response.status_code in RETRYABLE_STATUSES and num_retries_left > 0
                    if not is_retryable or retry_after_s > MAX_RETRY_DELAY_S:
                        raise await self._read_error(response, path)
                    delay_s = max(delay_s, retry_after_s)
                finally:
                    await response.aclose()
            await asyncio.sleep(delay_s * random.uniform(1.0, 1.5))
            num_retries_left, delay_s = num_retries_left - 1, 2 * delay_s

    async def _send(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None
    ) -> httpx.Response:
        self._require_open()
        fields = {name: value for name, value in body.items() if name not in self._config.omit}
        root = self._config.url.removesuffix("/v1") if path in ROOT_PATHS else self._config.url
        request = self._http.build_request("POST", root + path, json=fields, headers=headers)
        return await self._http.send(request, stream=True)

    def _require_open(self) -> None:
        if self.is_closed:
            raise RemoteUnavailable(f"{self._name}: this replica is shutting down")

    async def _read_error(self, response: httpx.Response, path: str) -> ExpertsError:
        body = b""
        try:
            async for part in response.aiter_bytes():
                body += part
                if len(body) > MAX_ERROR_BYTES:
                    break
        except httpx.RequestError as error:
            return self._unavailable(error)
        return self._to_exception(ErrorReply.from_body(response.status_code, body), path)

    def _parse(self, data: str, path: str) -> dict[str, Any]:
        try:
            event = json.loads(data)
        except ValueError as error:
            raise self._not_openai() from error
        if not isinstance(event, dict):
            raise self._not_openai()
        if event.get("error"):
            raise self._to_exception(ErrorReply.from_error(event["error"]), path)
        return event

    def _to_exception(self, reply: ErrorReply, path: str) -> ExpertsError:
        return reply.to_exception(self._name, self._config, self._api_key, path)

    def _unavailable(self, error: httpx.RequestError) -> RemoteUnavailable:
        # Only the error's type: some messages quote what the server sent.
        return RemoteUnavailable(f"{self._name}: no answer from {self._config.url} ({type(error).__name__})")

    def _not_openai(self) -> RemoteMisconfigured:
        return RemoteMisconfigured(
            f"{self._name}: {self._config.url} does not answer as OpenAI's API does; correct remote.url"
        )


def _read_api_key(name: str, variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    place = f"{name}: remote.api_key_env: the environment variable {variable}"
    if not key:
        raise RemoteMisconfigured(f"{place} is not set on this node; set it where Ray is started")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RemoteMisconfigured(f"{place} holds characters that an API key cannot have; correct it")
    return key


async def _drain(events: AsyncGenerator[Any, None]) -> None:
    """Read to the end, because only then can the next request reuse the connection."""
    with suppress(TimeoutError, httpx.RequestError):
        async with asyncio.timeout(DRAIN_TIMEOUT_S):
            async for _ in events:
                pass


def _retry_after_s(response: httpx.Response) -> float:
    """The Retry-After header in seconds; 0 if there is none, or if it is a date."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0
