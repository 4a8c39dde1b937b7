"""One chat request, measured by its client."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from benchmarks.relay.client import events


@dataclass(frozen=True)
class Answer:
    """`first_s`: when the first message with text arrived. Times are of time.perf_counter().

    `calls`: the milliseconds of each phase of each model call, if the answer has a trace.
    """

    began_s: float
    first_s: float
    ended_s: float
    text: str
    calls: Sequence[dict[str, float]] = ()

    @property
    def ttft_ms(self) -> float:
        return 1000 * (self.first_s - self.began_s)


SendQuestion = Callable[[str, int], Awaitable[Answer]]  # a question, and the number of tokens to answer


def over_http(url: str, model: str, **options: Any) -> SendQuestion:
    """Asks `model` of the server at `url`; `options` are further fields of the request."""

    async def send(question: str, num_tokens: int) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": num_tokens,
            "stream": True,
            **options,
        }
        return await ask(url, "/v1/chat/completions", body)

    return send


async def ask(url: str, path: str, body: dict[str, Any]) -> Answer:
    """Send a chat request and read its stream to the end. The events are parsed only afterwards.

    Raises:
        RuntimeError: the answer was an error, or the stream was cut off.
    """
    began_s = time.perf_counter()
    async with aclosing(events(url, path, body)) as lines:
        received = [(time.perf_counter(), line) async for line in lines]
    return _answer(began_s, time.perf_counter(), received)


def _answer(began_s: float, ended_s: float, received: list[tuple[float, bytes]]) -> Answer:
    messages = [(at_s, json.loads(event)) for at_s, event in received]
    parts = [(at_s, _text(message)) for at_s, message in messages]
    firsts_s = [at_s for at_s, text in parts if text]
    if not firsts_s:
        raise RuntimeError("the stream had no text")
    timing = messages[-1][1].get("routing", {}).get("timing", {})
    calls = [
        {phase: ms for phase, ms in call.items() if phase != "model"} for call in timing.get("calls", ())
    ]
    return Answer(began_s, firsts_s[0], ended_s, "".join(text for _, text in parts), calls)


def _text(message: dict[str, Any]) -> str:
    if "error" in message:
        raise RuntimeError(str(message["error"]))
    return "".join(choice["delta"].get("content") or "" for choice in message["choices"])
