"""Verdicts of the benchmark of live changes (whole, failed, truncated, doubled, wrong), and its clients."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from benchmarks.hot_change.answers import Answer, Question, Verdict, ask, judge
from benchmarks.hot_change.clients import Clients, loops_over
from benchmarks.hot_change.report import Run

QUESTION = Question.routed("What is 14 in Roman numerals?", "roman", "hot")
DONE = "data: [DONE]"
TEXTS = st.text(alphabet="abc ", min_size=1, max_size=12)


def chunk(text: str = "", finish: str | None = None, **more: object) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}, 'finish_reason': finish}], **more})}"


def usage(*models: str) -> str:
    counted = {"usage": {"completion_tokens": 3}, "usage_by_model": dict.fromkeys(models)}
    return f"data: {json.dumps({'choices': [], **counted})}"


async def answered(*lines: str, status: int = 200) -> Answer:
    """The answer that `ask` returns if the server sends these lines."""

    def reply(request: httpx.Request) -> httpx.Response:
        assert json.loads(request.content)["temperature"] == 0
        return httpx.Response(status, text="\n\n".join(lines))

    async with httpx.AsyncClient(base_url="http://hot", transport=httpx.MockTransport(reply)) as http:
        return await ask(http, QUESTION)


def given_text(text: str) -> Answer:
    return Answer(QUESTION, began_s=0.0, text=text)


async def test_a_whole_answer_has_its_text_its_writers_and_no_error():
    answer = await answered(chunk("X"), ": heartbeat", chunk("IV", "stop"), usage("meta", "roman"), DONE)
    assert (answer.text, answer.writers, answer.num_tokens, answer.error) == (
        "XIV",
        ("meta", "roman"),
        3,
        None,
    )
    assert judge(answer, {"XIV"}) is Verdict.WHOLE


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ((chunk("XIV"),), 200),
        ((chunk("XIV", "stop"),), 200),
        ((chunk("XIV"), DONE), 200),
        ((chunk("XIV", "stop"), DONE, DONE), 200),
        ((chunk("XIV"), 'data: {"error": {"message": "gone"}}', DONE), 200),
        ((chunk("XIV", "stop"), DONE), 503),
    ],
)
async def test_an_answer_without_a_proper_end_has_failed(lines: tuple[str, ...], status: int):
    answer = await answered(*lines, status=status)
    assert answer.error
    assert judge(answer, {"XIV"}) is Verdict.FAILED


async def test_a_connection_that_breaks_has_failed():
    async def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset", request=request)

    async with httpx.AsyncClient(base_url="http://hot", transport=httpx.MockTransport(broken)) as http:
        answer = await ask(http, QUESTION)
    assert answer.error == "ReadError: reset"


@given(TEXTS, st.data())
def test_a_text_without_one_part_is_truncated(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert judge(given_text(text[:start] + text[end:]), {text, "unlike"}) is Verdict.TRUNCATED


@given(TEXTS, st.data())
def test_a_text_with_one_part_twice_is_doubled(text: str, data: st.DataObject):
    start = data.draw(st.integers(0, len(text) - 1))
    end = data.draw(st.integers(start + 1, len(text)))
    assert judge(given_text(text[:end] + text[start:]), {text}) is Verdict.DOUBLED


@given(TEXTS, TEXTS)
def test_another_text_of_the_same_length_is_wrong(text: str, other: str):
    assume(text != other)
    other = (other * len(text))[: len(text)]
    verdict = Verdict.WHOLE if other == text else Verdict.WRONG
    assert judge(given_text(other), {text}) is verdict


class Server:
    """Answers with the text of the question, once for each release of `gate`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gate = asyncio.Semaphore(0)
        self.five_ask = asyncio.Event()

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        body: dict[str, Any] = json.loads(request.content)
        text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
        self.asked.append(text)
        if len(self.asked) == 5:
            self.five_ask.set()
        await self.gate.acquire()
        return httpx.Response(200, text="\n\n".join([chunk(text, "stop"), usage("meta"), DONE]))


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, httpx.AsyncClient]]:
    server = Server()
    async with httpx.AsyncClient(base_url="http://hot", transport=httpx.MockTransport(server)) as http:
        yield server, http


async def test_every_client_finishes_what_it_has_begun_and_asks_no_more(served):
    server, http = served
    routed = [Question.routed(f"question {i}", None, "hot") for i in range(8)]
    clients = Clients(http, loops_over(routed, Question.direct("long", "roman", "hot"), 5))
    async with clients.asking():
        await server.five_ask.wait()
        assert sorted(server.asked) == ["long", *(f"question {i}" for i in (0, 2, 4, 6))]
        for _ in range(6):
            server.gate.release()
        await clients.until(lambda: len(clients.answers) == 6, timeout_s=10)
        for _ in range(5):
            server.gate.release()
    assert len(clients.answers) == len(server.asked)
    assert all(judge(answer, {answer.text}) is Verdict.WHOLE for answer in clients.answers)


async def test_waiting_for_an_answer_times_out(served):
    _, http = served
    with pytest.raises(TimeoutError):
        await Clients(http, []).until(lambda: False, timeout_s=0.01)


def run_of(*answers: Answer, after: dict[str, frozenset[int]]) -> Run:
    return Run(
        began_s=0.0,
        ended_s=2.0,
        num_clients=1,
        steps=(),
        new_experts=(),
        token_replaced_s=0.1,
        answers=answers,
        known={QUESTION: frozenset({"XIV", "I do not know"})},
        pids_before={"meta": frozenset({1}), "expert-roman": frozenset({2})},
        pids_after=after,
        changed=frozenset({"expert-roman"}),
    )


def test_a_run_counts_every_verdict_and_compares_the_processes_of_unchanged_applications():
    answers = [given_text(text) for text in ("XIV", "I do not know", "XI", "XIVXIV", "abc")]
    report = run_of(*answers, after={"meta": frozenset({1}), "expert-roman": frozenset({3})}).as_json()
    counts = {
        key: report[key] for key in ("num_whole", "num_truncated", "num_doubled", "num_wrong", "num_failed")
    }
    assert counts == {"num_whole": 2, "num_truncated": 1, "num_doubled": 1, "num_wrong": 1, "num_failed": 0}
    assert report["pids_kept"]
    assert not run_of(after={"meta": frozenset({4})}).as_json()["pids_kept"]
    assert not run_of(after={}).as_json()["pids_kept"]
