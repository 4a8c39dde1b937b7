"""A client that costs next to nothing: it shares the processors with those whom it measures."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Answer:
    """Times by `time.perf_counter`; `first_s` is that of the first message with text in it."""

    began_s: float
    first_s: float
    ended_s: float
    text: str

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.first_s - self.began_s)


async def ask(url: str, path: str, body: dict[str, Any]) -> Answer:
    """Post a chat and read its stream to the end; what came is looked at only then.

    Raises:
        RuntimeError: the answer was an error, or the stream not whole.
    """
    address = urlsplit(url)
    began_s = time.perf_counter()
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nConnection: close\r\n"
    try:
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        came = await _events(reader)
    finally:
        writer.close()
        await writer.wait_closed()
    return _answer(began_s, came)


async def _events(reader: asyncio.StreamReader) -> list[tuple[float, bytes]]:
    """Each event with the time at which it was here."""
    status = await reader.readline()
    if b" 200 " not in status:
        raise RuntimeError((status + await reader.read()).decode())
    came = []
    while line := await reader.readline():
        if line.startswith(b"data: "):
            came.append((time.perf_counter(), line[len(b"data: ") :].strip()))
    if not came or came[-1][1] != b"[DONE]":
        raise RuntimeError(f"the stream broke off after {len(came)} events")
    return came


def _answer(began_s: float, came: list[tuple[float, bytes]]) -> Answer:
    parts = [(at_s, _text(event)) for at_s, event in came[:-1]]
    firsts_s = [at_s for at_s, text in parts if text]
    if not firsts_s:
        raise RuntimeError("the stream held no text")
    return Answer(began_s, firsts_s[0], came[-1][0], "".join(text for _, text in parts))


def _text(event: bytes) -> str:
    message = json.loads(event)
    if "error" in message:
        raise RuntimeError(str(message["error"]))
    return "".join(choice["delta"].get("content") or "" for choice in message["choices"])
