"""Streaming to a client: merged generators, server-sent events, and work that ends when the client goes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from router.errors import RouterError

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"
HEARTBEAT = b": heartbeat\n\n"  # a comment: clients skip it, and nobody between takes the line for dead

logger = logging.getLogger(__name__)
_encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


def to_json(content: Any) -> bytes:
    # Half a surrogate pair cannot be UTF-8; the backslash escape that replaces it is what JSON calls it.
    return _encode(content).encode("utf-8", "backslashreplace")


def event(content: Any) -> bytes:
    """One server-sent event."""
    return b"data: %b\n\n" % to_json(content)


def event_around(text: str, content: Any) -> tuple[bytes, bytes]:
    """The event's bytes before and after the only place where `content` has the string `text`."""
    before, after = event(content).split(to_json(text))
    return before, after


def envelope(error: RouterError) -> dict[str, Any]:
    """OpenAI's error body, in a response and in a stream alike."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


async def interleave(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Run the streams at once and yield their items as they come, each with its stream's index.

    The first failure ends all of them. Several streams may run ahead of a slow reader.
    """
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]] = asyncio.Queue()
    tasks = [asyncio.create_task(_pump(index, stream, queue)) for index, stream in enumerate(streams)]
    try:
        for task in tasks:
            task.add_done_callback(queue.put_nowait)
        for _ in tasks:
            while not isinstance(entry := await queue.get(), asyncio.Task):
                yield entry
            entry.result()  # a stream's end comes last; this raises what broke it
    finally:
        await _end(*tasks)


async def while_connected(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Do the work, but give it up at once when the client goes away.

    Raises:
        ClientDisconnect: the client went away; whatever `work` had open is closed by now.
    """
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        await _end(task, gone)


class EventStream(Response):
    """Sends events as they come, then [DONE]; and a comment whenever nothing was sent for `heartbeat_s`.

    The status waits for the first of these, so that an early failure is still a status. A later one can only
    be told inside the stream.
    """

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[bytes, None], request_id: str, heartbeat_s: float) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._request_id = request_id
        self._heartbeat_s = heartbeat_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await while_connected(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        body = _Body(send, self.raw_headers)
        heart = asyncio.create_task(body.keep_alive(self._heartbeat_s))
        try:
            async with aclosing(self._told(body)) as chunks:
                async for chunk in chunks:
                    await body.write(chunk)
        finally:
            await _end(heart)
        await body.write(DONE, more=False)

    async def _told(self, body: _Body) -> AsyncGenerator[bytes, None]:
        """The events; once the status is out, a failure is the last of them."""
        try:
            async with aclosing(self._events) as events:
                async for chunk in events:
                    yield chunk
        except RouterError as error:
            if not body.begun:
                raise
            logger.warning("request %s broke off: %s", self._request_id, error)
            yield event(envelope(error))
        except Exception:  # the last place where the client can still be told
            if not body.begun:
                raise
            logger.exception("request %s broke off", self._request_id)
            yield event(envelope(RouterError("the server had an internal error")))


class _Body:
    """What goes to the client, written by one at a time; the status goes with the first bytes."""

    def __init__(self, send: Send, headers: list[tuple[bytes, bytes]]) -> None:
        self.begun = False
        self._send = send
        self._headers = headers
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._clock()
        self._lock = asyncio.Lock()

    async def write(self, content: bytes, *, more: bool = True) -> None:
        async with self._lock:
            if not self.begun:
                self.begun = True
                await self._send({"type": "http.response.start", "status": 200, "headers": self._headers})
            await self._send({"type": "http.response.body", "body": content, "more_body": more})
            self._sent_at = self._clock()

    async def keep_alive(self, heartbeat_s: float) -> None:
        # One timer for each silence, not one for each event: events cost no more than a look at the clock.
        while True:
            sent_at = self._sent_at
            await asyncio.sleep(sent_at + heartbeat_s - self._clock())
            if self._sent_at == sent_at:
                await self.write(HEARTBEAT)


async def _pump(
    index: int, stream: AsyncGenerator[T, None], queue: asyncio.Queue[tuple[int, T] | asyncio.Task[None]]
) -> None:
    async with aclosing(stream):
        async for item in stream:
            queue.put_nowait((index, item))


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
