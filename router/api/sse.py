"""Server-sent events, and work that stops when the client disconnects."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import RouterError

T = TypeVar("T")
Write = Callable[[bytes], Awaitable[None]]

DONE = b"data: [DONE]\n\n"
HEARTBEAT = (
    b": heartbeat\n\n"  # an SSE comment: clients skip it, and proxies see that the connection is alive
)

logger = logging.getLogger(__name__)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(content: Any) -> bytes:
    # A lone surrogate has no UTF-8 encoding; "backslashreplace" writes it as the JSON escape \uXXXX.
    return _encode(content).encode("utf-8", "backslashreplace")


def event(content: Any) -> bytes:
    """One server-sent event with `content` as JSON."""
    return b"data: %b\n\n" % to_json(content)


def typed_event(content: Mapping[str, Any]) -> bytes:
    """One server-sent event with `content` as JSON, and with its `type` as the name."""
    return b"event: %b\n%b" % (content["type"].encode(), event(content))


def event_around(text: str, content: Any, encode: Callable[[Any], bytes] = event) -> tuple[bytes, bytes]:
    """The bytes of the event before and after the string `text`, which `content` must hold once."""
    before, after = encode(content).split(to_json(text))
    return before, after


def envelope(error: RouterError) -> dict[str, Any]:
    """OpenAI's error object, for response bodies and events."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


@dataclass(frozen=True, slots=True)
class Framing:
    """What a stream has besides the events of its answer.

    `error` makes the last event of a stream that fails, from the error and the request's id. `heartbeat` is
    sent in a silent stream, `end` after everything else.
    """

    error: Callable[[RouterError, str], bytes] = lambda error, request_id: event(envelope(error))
    heartbeat: bytes = HEARTBEAT
    end: bytes = DONE


async def for_each(
    streams: Sequence[AsyncGenerator[T, None]], handle: Callable[[int, T], Awaitable[None]]
) -> None:
    """Run the streams concurrently; call `handle` with a stream's index and item, one item at a time.

    The first failure closes all streams and is raised. With several streams, each may run ahead of `handle`.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                await handle(0, item)
        return
    queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_enqueue(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        for task in tasks:
            task.add_done_callback(queue.put_nowait)
        for _ in tasks:
            while not isinstance(entry := await queue.get(), asyncio.Task):
                await handle(*entry)
            entry.result()  # a finished task comes after all items of its stream; this raises its error
    finally:
        await _cancel(*tasks)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, which is cancelled as soon as the client disconnects.

    Raises:
        ClientDisconnect: the client disconnected; `work` has ended and closed everything it had open.
    """
    task = asyncio.create_task(work)
    disconnected = asyncio.create_task(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, disconnected}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _cancel(task, disconnected)


class EventStream(Response):
    """Sends events as `write_events` writes them, then the end; after `heartbeat_s` of silence, a heartbeat.

    The status is sent with the first bytes, so an error before them becomes an error status. A later error is
    sent as the last event.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        write_events: Callable[[Write], Awaitable[None]],
        request_id: str,
        heartbeat_s: float,
        framing: Framing = Framing(),
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._write_events = write_events
        self._request_id = request_id
        self._heartbeat_s = heartbeat_s
        self._framing = framing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        framing, body = self._framing, _Body(send, self.raw_headers)
        heartbeat = asyncio.create_task(body.send_heartbeats(self._heartbeat_s, framing.heartbeat))
        try:
            await self._write_events(body.write)
        except ClientDisconnect:
            raise
        except Exception as error:  # the last place where the client can still get it
            if not body.has_begun:
                raise
            await body.write(framing.error(self._logged(error), self._request_id))
        finally:
            await _cancel(heartbeat)
        await body.write(framing.end, more=False)

    def _logged(self, error: Exception) -> RouterError:
        """Log an error that ends the stream; returns the error that the client gets."""
        if isinstance(error, RouterError):
            logger.warning("request %s failed while streaming: %s", self._request_id, error)
            return error
        logger.error("request %s failed while streaming", self._request_id, exc_info=error)
        return RouterError("internal server error")


class _Body:
    """The response to the client. The status goes out with the first bytes."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self.has_begun = False
        self._send = send
        self._headers = headers
        self._clock = asyncio.get_running_loop().time
        self._sent_at_s = self._clock()
        self._lock = asyncio.Lock()  # heartbeats come from another task

    async def write(self, content: bytes, *, more: bool = True) -> None:
        """Send the bytes. Raises ClientDisconnect if the server finds the connection closed."""
        async with self._lock:
            try:
                if not self.has_begun:
                    self.has_begun = True
                    await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
                await self._send({"type": "http.response.body", "body": content, "more_body": more})
            except OSError as error:  # ASGI's signal for a closed connection
                raise ClientDisconnect from error
            self._sent_at_s = self._clock()

    async def send_heartbeats(self, heartbeat_s: float, heartbeat: bytes) -> None:
        # One timer per silence, not per event: an event costs no more than reading the clock.
        while True:
            sent_at_s = self._sent_at_s
            await asyncio.sleep(sent_at_s + heartbeat_s - self._clock())
            if self._sent_at_s == sent_at_s:
                await self.write(heartbeat)


async def _enqueue(
    index: int, stream: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]]
) -> None:
    async with aclosing(stream):
        async for item in stream:
            queue.put_nowait((index, item))


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
