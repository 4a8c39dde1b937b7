"""A client that costs next to nothing, for a usual one would be most of what is measured on one machine."""

from __future__ import annotations

import asyncio
import json
import re
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

MADE = re.compile(rb" (\d{12,})")  # the time at which an instant model made the message's first token


@dataclass
class Received:
    """`delays_ms`: from the making of each message's first token until it was here."""

    num_messages: int = 0
    num_tokens: int = 0
    began_s: float = field(default_factory=time.monotonic)
    first_s: float = 0.0
    ended_s: float = 0.0
    delays_ms: list[float] = field(default_factory=list)


async def receive(url: str, path: str, body: dict[str, Any]) -> Received:
    """Post, and read an event stream to its end.

    Raises:
        RuntimeError: the answer was an error, or the stream not whole.
    """
    address = urlsplit(url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    try:
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        return await _read(reader)
    finally:
        writer.close()
        await writer.wait_closed()


async def _read(reader: asyncio.StreamReader) -> Received:
    received, last = Received(), b""
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError((status + await reader.read()).decode())
    while line := await reader.readline():
        if not line.startswith(b"data: "):
            continue
        last = line
        if made := MADE.search(line):
            now_ns = time.monotonic_ns()
            received.first_s = received.first_s or time.monotonic()
            received.num_messages += 1
            received.num_tokens += 1 + line.count(b" word")
            received.delays_ms.append((now_ns - int(made[1])) / 1e6)
    received.ended_s = time.monotonic()
    if last != b"data: [DONE]\n":
        raise RuntimeError(f"the stream broke off after {received.num_messages} messages: {last!r}")
    return received
