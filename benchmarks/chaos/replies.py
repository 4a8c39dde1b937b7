"""One question asked during a fault: its answer, when the parts arrived, and how it ended."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import httpx

from benchmarks.hot_change.answers import Answer, Question, Verdict, judge

DEADLINE_S = 180.0
REFUSALS = (429, 503)
MAX_EXAMPLES = 4
NO_LIMITS = httpx.Limits(max_connections=None)
Known = Mapping[Question, Collection[str]]


class Ending(StrEnum):
    WHOLE = "whole"
    BROKEN = "broken"  # the connection failed, or the proxy said that no router was behind it
    REFUSED = "refused"  # 429 or 503 before the first byte
    ERROR = "error"  # any other status, or an error in the stream
    CUT = "cut"  # ended without a finish reason and without an error
    TRUNCATED = "truncated"  # a part of the text is missing
    DOUBLED = "doubled"  # a part of the text came twice
    WRONG = "wrong"
    HUNG = "hung"  # no end and no error within the deadline


@dataclass
class Reply:
    """`first_s`: when the first text arrived. Times are of time.monotonic()."""

    answer: Answer
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""  # of an error response
    first_s: float | None = None
    longest_pause_s: float = 0.0
    broken: str | None = None
    is_hung: bool = False
    has_no_end: bool = False

    def ending(self, known: Known) -> Ending:
        if self.is_hung:
            return Ending.HUNG
        if self.broken:
            return Ending.BROKEN
        if self.status in REFUSALS:
            return Ending.REFUSED
        if self.has_no_end:
            return Ending.CUT
        if self.answer.error:
            return Ending.ERROR
        verdict = judge(self.answer, known[self.answer.question])
        return Ending.WHOLE if verdict is Verdict.WHOLE else Ending(verdict.value)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error of the OpenAI envelope. None: the body is not such an envelope."""
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return None
        keys = {"message", "type", "param", "code"}
        return error if isinstance(error, dict) and keys <= error.keys() else None

    def describe(self) -> str:
        """What went wrong, in words."""
        answer = self.answer
        problem = self.broken or answer.error or f"wrong text for a question of {answer.question.topic}"
        return f"{self.status} {problem} ({len(answer.text)} characters by {' and '.join(answer.writers)})"


def client(url: str, key: str | None = None) -> httpx.AsyncClient:
    """A client without a timeout, because every question has its own deadline."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, timeout=None, limits=NO_LIMITS, trust_env=False, headers=headers)


async def ask(http: httpx.AsyncClient, question: Question, deadline_s: float = DEADLINE_S) -> Reply:
    """Stream the greedy answer. Errors are in the reply; nothing is raised."""
    reply = Reply(Answer(question, time.monotonic()))
    try:
        async with asyncio.timeout(deadline_s):
            await _receive(http, reply)
    except TimeoutError:
        reply.is_hung = True
    except httpx.TransportError as error:
        reply.broken = f"{type(error).__name__}: {error}"
    failed = reply.answer.error is not None
    reply.answer.end()
    reply.has_no_end = not failed and reply.answer.error is not None and reply.broken is None
    return reply


async def ask_all(
    http: httpx.AsyncClient, questions: Iterable[Question], num_at_once: int, deadline_s: float = DEADLINE_S
) -> list[Reply]:
    """Ask every question once, `num_at_once` at a time. The replies are in the order in which they end."""
    replies: list[Reply] = []
    waiting = iter(questions)

    async def ask_next(waiting: Iterator[Question]) -> None:
        for question in waiting:
            replies.append(await ask(http, question, deadline_s))

    async with asyncio.TaskGroup() as clients:
        for _ in range(num_at_once):
            clients.create_task(ask_next(waiting))
    return replies


def endings(replies: Iterable[Reply], known: Known) -> dict[str, int]:
    """The number of replies by ending, with zeros."""
    counted = Counter(reply.ending(known) for reply in replies)
    return {ending.value: counted[ending] for ending in Ending}


def broken_promises(
    when: str, counted: Mapping[str, int], good: Collection[str] = (Ending.WHOLE,)
) -> list[str]:
    """Describe the endings that are not good. No answer at all is a broken promise, too."""
    if not any(counted.values()):
        return [f"{when}: no answer, so nothing was tested"]
    bad = {end: num for end, num in counted.items() if num and end not in good}
    return [f"{when}: {bad}"] if bad else []


def failure_examples(replies: Iterable[Reply], known: Known) -> list[str]:
    """The first few replies of every bad ending, in words."""
    bad: dict[Ending, list[str]] = {}
    for reply in replies:
        if (ending := reply.ending(known)) is not Ending.WHOLE:
            bad.setdefault(ending, []).append(f"{ending}: {reply.describe()}")
    return [example for examples in bad.values() for example in examples[:MAX_EXAMPLES]]


async def _receive(http: httpx.AsyncClient, reply: Reply) -> None:
    question = reply.answer.question
    body = {**question.body, "temperature": 0, "stream": True, "stream_options": {"include_usage": True}}
    async with http.stream("POST", question.path, json=body) as response:
        reply.status, reply.headers = response.status_code, response.headers
        if not response.is_success:
            reply.body = await response.aread()
            reply.answer.error = f"{response.status_code} {reply.body[:200]!r}"
            if response.status_code >= 500 and reply.error is None:
                reply.broken = f"the proxy says {reply.answer.error}"
            return
        last_s = reply.answer.began_s
        async for line in response.aiter_lines():
            num_before = len(reply.answer.text)
            reply.answer.take(line)
            if len(reply.answer.text) > num_before:
                now_s = time.monotonic()
                reply.first_s = reply.first_s or now_s
                reply.longest_pause_s = max(reply.longest_pause_s, now_s - last_s)
                last_s = now_s
