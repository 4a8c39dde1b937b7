"""One question to a served model, its streamed answer, and a comparison with the known answers."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx


class Verdict(StrEnum):
    WHOLE = "whole"
    FAILED = "failed"  # an error, or a stream without its end
    TRUNCATED = "truncated"  # a known answer without a part of it
    DOUBLED = "doubled"  # a known answer with a part of it twice
    WRONG = "wrong"  # no known answer


@dataclass(frozen=True, eq=False)
class Question:
    """Compared by identity. `topic`: the expert that should answer; None: general chat."""

    topic: str | None
    path: str
    body: Mapping[str, Any]

    @staticmethod
    def routed(text: str, topic: str | None, model: str, max_tokens: int = 64) -> Question:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
        return Question(topic, "/v1/chat/completions", body)

    @staticmethod
    def direct(prompt: str, topic: str, model: str) -> Question:
        """A raw prompt that one expert continues at length."""
        body = {"model": f"{model}/{topic}", "prompt": prompt, "max_tokens": 400}
        return Question(topic, "/v1/completions", body)


@dataclass
class Answer:
    """`writers`: the models that were called for it. Times are of time.monotonic()."""

    question: Question
    began_s: float
    ended_s: float = 0.0
    text: str = ""
    writers: tuple[str, ...] = ()
    num_tokens: int = 0
    error: str | None = None
    _endings: list[str] = field(default_factory=list)

    def take(self, line: str) -> None:
        """One line of the event stream."""
        if not line.startswith("data: "):
            return
        if line == "data: [DONE]":
            self._endings.append(line)
            return
        chunk = json.loads(line[6:])
        if "error" in chunk:
            self.error = json.dumps(chunk["error"])
            return
        for choice in chunk["choices"]:
            self.text += choice.get("text") or choice.get("delta", {}).get("content") or ""
            self._endings += [choice["finish_reason"]] if choice["finish_reason"] else []
        if chunk.get("usage"):
            self.writers = tuple(chunk["usage_by_model"])
            self.num_tokens = chunk["usage"]["completion_tokens"]

    def end(self) -> None:
        self.ended_s = time.monotonic()
        if self.error is None and self._endings[1:] != ["data: [DONE]"]:
            self.error = f"the stream ended with {self._endings} after {len(self.text)} characters"


async def ask(http: httpx.AsyncClient, question: Question) -> Answer:
    """Stream the greedy answer. Errors are in the answer; nothing is raised."""
    answer = Answer(question, time.monotonic())
    await receive(http, answer)
    return answer


async def receive(http: httpx.AsyncClient, answer: Answer) -> None:
    """Ask the answer's question, and fill the answer while it streams."""
    question = answer.question
    body = {**question.body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    try:
        async with http.stream("POST", question.path, json=body) as response:
            if not response.is_success:
                answer.error = f"{response.status_code} {(await response.aread()).decode()}"
            else:
                async for line in response.aiter_lines():
                    answer.take(line)
    except httpx.TransportError as error:
        answer.error = f"{type(error).__name__}: {error}"
    answer.end()


def judge(answer: Answer, known: Collection[str]) -> Verdict:
    """Compare with the known answers. There may be one for each route table of the run."""
    if answer.error is not None:
        return Verdict.FAILED
    if answer.text in known:
        return Verdict.WHOLE
    if any(len(answer.text) < len(text) and _lacks_one_part(answer.text, text) for text in known):
        return Verdict.TRUNCATED
    if any(len(answer.text) > len(text) and _lacks_one_part(text, answer.text) for text in known):
        return Verdict.DOUBLED
    return Verdict.WRONG


def _lacks_one_part(short: str, long: str) -> bool:
    """Whether `short` is `long` with one part left out."""
    start = len(os.path.commonprefix([short, long]))
    end = len(os.path.commonprefix([short[::-1], long[::-1]]))
    return start + end >= len(short)
