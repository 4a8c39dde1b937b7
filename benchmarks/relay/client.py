"""A client with little overhead. A usual HTTP client would take most of the measured time on one machine."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MADE = re.compile(rb" (\d{12,})")  # the time at which the model made a token
END = b"data: [DONE]"


@dataclass
class Received:
    """`delays_ms`: for each message, from the creation of its first token until it was received."""

    num_messages: int = 0
    num_tokens: int = 0
    began_s: float = field(default_factory=time.monotonic)
    first_s: float = 0.0
    ended_s: float = 0.0
    delays_ms: list[float] = field(default_factory=list)


async def receive(url: str, path: str, body: dict[str, Any]) -> Received:
    """Send a POST request, and read the event stream to its end.

    Raises:
        RuntimeError: the answer was an error, or the stream was cut off.
    """
    received = Received()
    async with aclosing(events(url, path, body)) as lines:
        async for line in lines:
            if made := MADE.search(line):
                now_ns = time.monotonic_ns()
                received.first_s = received.first_s or time.monotonic()
                received.num_messages += 1
                received.num_tokens += sum(1 for _ in MADE.finditer(line)) + line.count(b" word")
                received.delays_ms.append((now_ns - int(made[1])) / 1e6)
    received.ended_s = time.monotonic()
    return received


async def whole(url: str, path: str, body: dict[str, Any]) -> Any:
    """Send a POST request, and return the JSON answer. Raises RuntimeError if it was an error."""
    async with _posted(url, path, body) as reader:
        return json.loads((await reader.read()).partition(b"\r\n\r\n")[2])


async def events(url: str, path: str, body: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Send a POST request, and yield the events as they arrive, without the final [DONE].

    Raises:
        RuntimeError: the answer was an error, or the stream was cut off.
    """
    num_events, last = 0, b""
    async with _posted(url, path, body) as reader:
        while line := await reader.readline():
            if not line.startswith(b"data: "):
                continue
            if line.startswith(END):
                return
            num_events, last = num_events + 1, line
            yield line[len(b"data: ") :]
    raise RuntimeError(f"the stream was cut off after {num_events} events: {last!r}")


@asynccontextmanager
async def _posted(url: str, path: str, body: dict[str, Any]) -> AsyncIterator[asyncio.StreamReader]:
    """Yields a reader of what follows the status line. Every request has a new connection, which ends the
    body."""
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    try:
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        status = await reader.readline()
        if b" 200 " not in status:
            raise RuntimeError((status + await reader.read()).decode())
        yield reader
    finally:
        writer.close()
        await writer.wait_closed()
