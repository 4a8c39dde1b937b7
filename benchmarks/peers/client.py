"""One chat, as a client sees it."""

from __future__ import annotations

import json
import time
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.relaying.client import events


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
    began_s = time.perf_counter()
    async with aclosing(events(url, path, body)) as lines:
        came = [(time.perf_counter(), line) async for line in lines]
    return _answer(began_s, time.perf_counter(), came)


def _answer(began_s: float, ended_s: float, came: list[tuple[float, bytes]]) -> Answer:
    parts = [(at_s, _text(event)) for at_s, event in came]
    firsts_s = [at_s for at_s, text in parts if text]
    if not firsts_s:
        raise RuntimeError("the stream held no text")
    return Answer(began_s, firsts_s[0], ended_s, "".join(text for _, text in parts))


def _text(event: bytes) -> str:
    message = json.loads(event)
    if "error" in message:
        raise RuntimeError(str(message["error"]))
    return "".join(choice["delta"].get("content") or "" for choice in message["choices"])
