"""One chat, as a client sees it."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.relaying.client import events


@dataclass(frozen=True)
class Answer:
    """Times by `time.perf_counter`; `first_s` is that of the first message with text in it.

    `calls`: where a routed answer says so, what each of its models spent its time on, in ms.
    """

    began_s: float
    first_s: float
    ended_s: float
    text: str
    calls: Sequence[dict[str, float]] = ()

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
    messages = [(at_s, json.loads(event)) for at_s, event in came]
    parts = [(at_s, _text(message)) for at_s, message in messages]
    firsts_s = [at_s for at_s, text in parts if text]
    if not firsts_s:
        raise RuntimeError("the stream held no text")
    timing = messages[-1][1].get("routing", {}).get("timing", {})
    calls = [
        {phase: ms for phase, ms in call.items() if phase != "model"} for call in timing.get("calls", ())
    ]
    return Answer(began_s, firsts_s[0], ended_s, "".join(text for _, text in parts), calls)


def _text(message: dict[str, Any]) -> str:
    if "error" in message:
        raise RuntimeError(str(message["error"]))
    return "".join(choice["delta"].get("content") or "" for choice in message["choices"])
