"""The harness detects a server that loses, doubles and withholds parts of answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence

import httpx
import pytest

from benchmarks.chaos.replies import Ending, ask
from benchmarks.hot_change.answers import Question

QUESTION = Question.routed("ten?", None, "chaos")
KNOWN = {QUESTION: {"one two three"}}


def text(content: str, finish: str | None = None) -> str:
    delta = {"content": content} if content else {}
    return "data: " + json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]})


DONE = "data: [DONE]"
STOP = text("", "stop")
FAILED = 'data: {"error": {"message": "m", "type": "server_error", "param": null, "code": null}}'


class Stream(httpx.AsyncByteStream):
    """`None` breaks the connection; an empty line hangs the stream."""

    def __init__(self, lines: Sequence[str | None]) -> None:
        self._lines = lines

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for line in self._lines:
            if line is None:
                raise httpx.RemoteProtocolError("peer closed connection")
            if not line:
                await asyncio.Event().wait()
            yield f"{line}\n\n".encode()


@pytest.mark.parametrize(
    ("lines", "ending"),
    [
        ([text("one "), text("two three"), STOP, DONE], Ending.WHOLE),
        ([text("one "), text("three"), STOP, DONE], Ending.TRUNCATED),
        ([text("one "), text("two three")], Ending.CUT),
        ([text("one two three"), DONE], Ending.CUT),
        ([text("one "), text("one two three"), STOP, DONE], Ending.DOUBLED),
        ([text("four"), STOP, DONE], Ending.WRONG),
        ([text("one "), FAILED, DONE], Ending.ERROR),
        ([text("one "), None], Ending.BROKEN),
        ([text("one "), ""], Ending.HUNG),
    ],
)
async def test_every_ending_of_a_stream_is_recognized(lines, ending):
    assert await ended(httpx.Response(200, stream=Stream(lines))) is ending


ENVELOPE = {"error": {"message": "m", "type": "t", "param": None, "code": "overloaded"}}


@pytest.mark.parametrize(
    ("response", "ending"),
    [
        (httpx.Response(429, json=ENVELOPE), Ending.REFUSED),
        (httpx.Response(503, json=ENVELOPE), Ending.REFUSED),
        (httpx.Response(503, text="no router"), Ending.BROKEN),
        (httpx.Response(500, json=ENVELOPE), Ending.ERROR),
    ],
)
async def test_a_refusal_differs_from_an_error_and_from_a_proxy_without_a_router(response, ending):
    assert await ended(response) is ending


async def ended(response: httpx.Response) -> Ending:
    transport = httpx.MockTransport(lambda request: response)
    async with httpx.AsyncClient(base_url="http://cluster", transport=transport) as http:
        reply = await ask(http, QUESTION, deadline_s=0.2)
    return reply.ending(KNOWN)
