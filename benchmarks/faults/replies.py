"""One question asked while things break: its answer, when its parts came, and how it ended."""

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

from benchmarks.hot.answers import Answer, Question, Verdict, judge

DEADLINE_S = 180.0
REFUSALS = (429, 503)
MAX_TOLD = 4
NO_LIMITS = httpx.Limits(max_connections=None)
Known = Mapping[Question, Collection[str]]


class Ending(StrEnum):
    WHOLE = "whole"
    BROKEN = "broken"  # the connection ended in an error, or the proxy said that nobody was behind it
    REFUSED = "refused"  # 429 or 503, before anything began
    ERROR = "error"  # any other status, or an error in the stream
    CUT = "cut"  # ended without a reason and without an error
    TRUNCATED = "truncated"  # a piece of it is missing
    DOUBLED = "doubled"  # more than belongs to it
    WRONG = "wrong"
    HUNG = "hung"  # neither an end nor an error within the deadline


@dataclass
class Reply:
    """`first_s`: when its first text came. Times are of time.monotonic()."""

    answer: Answer
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""  # of a response that is no success
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
        """What the OpenAI envelope of a refusal holds; None if it came in no such envelope."""
        try:
            error = json.loads(self.body)["error"]
        except (ValueError, KeyError, TypeError):
            return None
        keys = {"message", "type", "param", "code"}
        return error if isinstance(error, dict) and keys <= error.keys() else None

    def told(self) -> str:
        """What went wrong, for people."""
        answer = self.answer
        what = self.broken or answer.error or f"another text, of a question for {answer.question.topic}"
        return f"{self.status} {what} ({len(answer.text)} characters by {' and '.join(answer.writers)})"


def client(url: str, key: str | None = None) -> httpx.AsyncClient:
    """Waits for ever: the deadline is each question's."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(base_url=url, timeout=None, limits=NO_LIMITS, trust_env=False, headers=headers)


async def ask(http: httpx.AsyncClient, question: Question, deadline_s: float = DEADLINE_S) -> Reply:
    """The greedy answer, streamed. What goes wrong is in it: nothing is raised."""
    reply = Reply(Answer(question, time.monotonic()))
    try:
        async with asyncio.timeout(deadline_s):
            await _receive(http, reply)
    except TimeoutError:
        reply.is_hung = True
    except httpx.TransportError as error:
        reply.broken = f"{type(error).__name__}: {error}"
    told = reply.answer.error
    reply.answer.end()
    reply.has_no_end = told is None and reply.answer.error is not None and reply.broken is None
    return reply


async def ask_all(
    http: httpx.AsyncClient, questions: Iterable[Question], num_at_once: int, deadline_s: float = DEADLINE_S
) -> list[Reply]:
    """Every question once, so many at a time; in the order in which they end."""
    replies: list[Reply] = []
    waiting = iter(questions)

    async def take(waiting: Iterator[Question]) -> None:
        for question in waiting:
            replies.append(await ask(http, question, deadline_s))

    async with asyncio.TaskGroup() as takers:
        for _ in range(num_at_once):
            takers.create_task(take(waiting))
    return replies


def endings(replies: Iterable[Reply], known: Known) -> dict[str, int]:
    """How many ended how; every ending is in it."""
    counted = Counter(reply.ending(known) for reply in replies)
    return {ending.value: counted[ending] for ending in Ending}


def unkept(when: str, counted: Mapping[str, int], good: Collection[str] = (Ending.WHOLE,)) -> list[str]:
    """The broken promise that all of them end well; where there are none, nothing was shown."""
    if not any(counted.values()):
        return [f"{when}: no answer, so nothing was shown"]
    bad = {end: num for end, num in counted.items() if num and end not in good}
    return [f"{when}: {bad}"] if bad else []


def not_whole(replies: Iterable[Reply], known: Known) -> list[str]:
    """The first few of every bad ending, in words."""
    bad: dict[Ending, list[str]] = {}
    for one in replies:
        if (end := one.ending(known)) is not Ending.WHOLE:
            bad.setdefault(end, []).append(f"{end}: {one.told()}")
    return [told for some in bad.values() for told in some[:MAX_TOLD]]


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
