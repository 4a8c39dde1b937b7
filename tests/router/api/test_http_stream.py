"""Streamed answers: events, errors, and that nothing keeps running after a client disconnects."""

import asyncio
import json
import logging
import math
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Scope

from router.api.sse import event, for_each
from router.dialects.app import build_app
from router.errors import ModelFailed, RouterError
from router.model_port import Finish, ModelChunk, ModelRequest
from router.routing_report import Candidates, RoutingReport
from tests.fakes.models import FakeGateway, FakeModel, Pause, hands_over, models, served, to, writes

CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X")))


async def stream(gateway: FakeGateway, path: str = CHAT, **fields: Any) -> list[dict[str, Any]]:
    """The decoded events of an answer, without the final [DONE]."""
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        question = {"prompt": "9 is"} if path == TEXT else {"messages": HELLO}
        response = await client.post(path, json={**question, "stream": True, **fields})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, done, end = response.text.split("\n\n")
    assert (done, end) == ("data: [DONE]", "")
    return [json.loads(block.removeprefix("data: ")) for block in events]


def contents(chunks: list[dict[str, Any]], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


async def test_chunks_share_one_id_and_have_one_role_and_one_finish_reason(gateway: FakeGateway):
    chunks = await stream(gateway)
    assert (
        len({(c["id"], c["created"], c["model"], c["system_fingerprint"], c["object"]) for c in chunks}) == 1
    )
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["model"] == "generalist"
    assert [c["choices"][0]["delta"] for c in chunks] == [
        {"role": "assistant", "content": "It is "},
        {"content": "I"},
        {"content": "X"},
        {},
    ]
    assert [c["choices"][0]["finish_reason"] for c in chunks] == [None, None, None, "stop"]
    assert all("usage" not in c and "routing" not in c for c in chunks)


async def test_an_empty_answer_has_a_role(gateway: FakeGateway):
    gateway.models = models(meta=writes())
    [chunk] = await stream(gateway)
    assert chunk["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunk["choices"][0]["finish_reason"] == "stop"


async def test_usage_is_in_the_last_chunk_and_only_on_request(gateway: FakeGateway):
    *chunks, last = await stream(gateway, stream_options={"include_usage": True})
    assert all(chunk["usage"] is None for chunk in chunks)
    assert last["choices"] == []
    assert (last["id"], last["usage"]["total_tokens"]) == (chunks[0]["id"], 6)
    assert last["usage_by_model"]["roman"]["completion_tokens"] == 2


async def test_the_trace_names_the_model_of_every_chunk(gateway: FakeGateway):
    *chunks, last = await stream(gateway, routing={"trace": True})
    assert [chunk["routing"] for chunk in chunks] == [
        {"model": "meta"},
        {"model": "roman"},
        {"model": "roman"},
    ]
    spans = last["routing"]["spans"]
    assert [(span["model"], span["text"]) for span in spans] == [("meta", "It is "), ("roman", "IX")]
    assert "".join(span["text"] for span in spans) == contents(chunks)


async def test_the_trace_has_what_the_meta_chose_from(gateway: FakeGateway):
    candidates = Candidates(math.log(0.1), (("roman", math.log(0.8)), ("morse", math.log(0.05))))
    handed_over = replace(to("roman", 0.8), routing=RoutingReport(candidates))
    gateway.models = {"meta": FakeModel(lambda ask: [handed_over]), "roman": FakeModel(writes("IX"))}
    *_, last = await stream(gateway, routing={"trace": True})
    [decision] = last["routing"]["decisions"]
    assert decision["expert"] == "roman"
    assert decision["best_word_probability"] == pytest.approx(0.1)
    found = {own["name"]: own["probability"] for own in decision["experts"]}
    assert found == pytest.approx({"roman": 0.8, "morse": 0.05})


async def test_every_choice_is_complete_and_has_a_role_and_a_finish_reason(gateway: FakeGateway):
    chunks = await stream(gateway, n=3)
    for index in range(3):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert contents(chunks, index) == "It is IX"
        assert ["role" in choice["delta"] for choice in own] == [True, False, False, False]
        assert [choice["finish_reason"] for choice in own] == [None, None, None, "stop"]


async def test_text_completions_are_streamed(gateway: FakeGateway):
    chunks = await stream(gateway, TEXT, prompt=["a", "b"], routing={})
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    for index in range(2):
        own = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in own) == "It is IX"
        assert own[-1]["finish_reason"] == "stop"


@given(text=st.text())
def test_an_event_is_one_line_for_any_text(text: str):
    raw = event({"content": text})
    assert raw.startswith(b"data: ")
    assert raw.endswith(b"\n\n")
    assert b"\n" not in raw[:-2]
    assert json.loads(raw[6:]) == {"content": text}


def test_a_lone_surrogate_is_escaped():
    assert json.loads(event("\ud83d!")[6:]) == "\ud83d!"


@pytest.mark.parametrize("n", [1, 2])
@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ModelFailed("the engine broke"), "model_failed", "the engine broke"),
        (RuntimeError("secret"), None, "internal server error"),
    ],
)
async def test_an_error_after_the_first_byte_is_the_last_event(
    gateway: FakeGateway,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    code: str | None,
    message: str,
    n: int,
):
    meta = BreaksOff(["I", " am"], error)
    gateway.models = {"meta": meta}
    with caplog.at_level(logging.WARNING, "router.api.sse"):
        *chunks, last = await stream(gateway, n=n)
    assert last == {"error": {"message": message, "type": "server_error", "param": None, "code": code}}
    assert contents(chunks) == "I am"
    assert all(chunk["choices"][0]["finish_reason"] is None for chunk in chunks)
    assert len(caplog.records) == 1
    assert meta.num_open == 0


class BreaksOff(FakeModel):
    """Generates text, then raises any exception, even one that a model must not raise."""

    def __init__(self, texts: list[str], error: Exception) -> None:
        super().__init__(lambda ask: [ModelChunk(text, num_tokens=1, num_prompt_tokens=3) for text in texts])
        self.error = error

    async def stream(self, ask: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        self.num_open += 1
        try:
            for item in self.script(ask):
                assert isinstance(item, ModelChunk)
                yield item
            raise self.error
        finally:
            self.num_open -= 1


async def test_items_are_handled_in_the_order_in_which_the_streams_produce_them():
    may_produce = [asyncio.Event() for _ in range(5)]
    may_produce[0].set()

    async def produce(*numbers: int) -> AsyncGenerator[int, None]:
        # Each stream waits for the other: run one after another, they would never end.
        for number in numbers:
            await may_produce[number].wait()
            yield number
            may_produce[number + 1].set()

    handled: list[tuple[int, int]] = []

    async def handle(index: int, item: int) -> None:
        handled.append((index, item))

    async with asyncio.timeout(5):
        await for_each([produce(0, 2), produce(1, 3)], handle)
    assert handled == [(0, 0), (1, 1), (0, 2), (1, 3)]


async def test_the_first_failure_closes_the_other_streams():
    closed = asyncio.Event()

    async def hangs() -> AsyncGenerator[str, None]:
        try:
            yield "a"
            await asyncio.Event().wait()
        finally:
            closed.set()

    async def fails() -> AsyncGenerator[str, None]:
        yield "b"
        raise ModelFailed("broken")

    handled: list[tuple[int, str]] = []

    async def handle(index: int, item: str) -> None:
        handled.append((index, item))

    with pytest.raises(ModelFailed):
        await for_each([hangs(), fails()], handle)
    assert sorted(handled) == [(0, "a"), (1, "b")]
    assert closed.is_set()


class Visit:
    """One request to the app, as a server would make it. Setting `left` closes the client's connection."""

    def __init__(
        self,
        app: FastAPI,
        path: str,
        fields: dict[str, Any],
        *,
        headers: Mapping[str, str] | None = None,
        reads: bool = True,
    ) -> None:
        self.sent: list[Message] = []
        self.first_byte = asyncio.Event()
        self.left = asyncio.Event()
        self._body: list[bytes] = [json.dumps({"messages": HELLO, **fields}).encode()]
        self._reads = reads
        sent = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        scope: Scope = {"type": "http", "method": "POST", "path": path, "headers": sent, "query_string": b""}
        self.task = asyncio.create_task(self._serve(app, scope))

    async def _serve(self, app: FastAPI, scope: Scope) -> None:
        await app(scope, self._receive, self._send)

    async def _receive(self) -> Message:
        if self._body:
            return {"type": "http.request", "body": self._body.pop(), "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        if message["type"] == "http.response.body":
            self.first_byte.set()
            if not self._reads:
                await asyncio.Event().wait()


@pytest.fixture
async def writing() -> tuple[FakeGateway, asyncio.Event]:
    """A cluster whose expert never finishes, and an event that is set when it begins."""
    begun = asyncio.Event()

    def roman(ask: ModelRequest) -> list[ModelChunk | RouterError | Pause]:
        begun.set()
        return [ModelChunk("I", num_tokens=1, num_prompt_tokens=3), Pause(), ModelChunk(finish=Finish.STOP)]

    return FakeGateway(models(meta=hands_over("roman"), roman=roman)), begun


@pytest.mark.parametrize("fields", [{}, {"n": 3}, {"stream": True}, {"stream": True, "n": 3}])
@pytest.mark.parametrize("ending", ["client leaves", "server cancels"])
async def test_all_model_streams_are_closed_when_the_client_disconnects(
    writing: tuple[FakeGateway, asyncio.Event], fields: dict[str, Any], ending: str
):
    gateway, begun = writing
    visit = Visit(build_app(gateway), CHAT, fields)
    async with asyncio.timeout(5):
        await (visit.first_byte if fields.get("stream") else begun).wait()
        assert open_streams(gateway) > 0
        if ending == "client leaves":
            visit.left.set()
            await visit.task
        else:
            visit.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await visit.task
    assert open_streams(gateway) == 0
    assert not any(b"[DONE]" in message.get("body", b"") for message in visit.sent)
    assert len(asyncio.all_tasks()) == 1


async def test_a_client_that_disconnects_without_reading_is_noticed(
    writing: tuple[FakeGateway, asyncio.Event],
):
    gateway, _ = writing
    visit = Visit(build_app(gateway), CHAT, {"stream": True}, reads=False)
    async with asyncio.timeout(5):
        await visit.first_byte.wait()
        visit.left.set()
        await visit.task
    assert open_streams(gateway) == 0


@pytest.mark.parametrize("path", [CHAT, ROUTE])
async def test_a_client_can_disconnect_before_the_first_byte(path: str):
    begun = asyncio.Event()

    def silent(ask: ModelRequest) -> list[ModelChunk | RouterError | Pause]:
        begun.set()
        return [Pause()]

    gateway = FakeGateway(models(meta=silent))
    visit = Visit(build_app(gateway), path, {"stream": True})
    async with asyncio.timeout(5):
        await begun.wait()
        visit.left.set()
        await visit.task
    assert open_streams(gateway) == 0
    assert visit.sent == []


def open_streams(gateway: FakeGateway) -> int:
    assert isinstance(gateway.models, dict)
    return sum(model.num_open for model in gateway.models.values())


def test_over_a_real_connection_chunks_arrive_at_once_and_a_disconnect_is_noticed():
    """Choice 0 hangs, so choice 1 arrives only if both are generated concurrently."""

    def roman(ask: ModelRequest) -> list[ModelChunk | RouterError | Pause]:
        text = ModelChunk("X", num_tokens=1, num_prompt_tokens=3)
        return [Pause()] if ask.request_id.endswith("-0") else [text, Pause()]

    fakes = models(meta=hands_over("roman"), roman=roman)
    body = {"messages": HELLO, "stream": True, "n": 2}
    with served(build_app(FakeGateway(fakes))) as url:
        with httpx.stream("POST", url + CHAT, json=body) as response:
            lines = response.iter_lines()  # kept: the connection is closed when this is garbage-collected
            chunk = json.loads(next(lines).removeprefix("data: "))
            assert chunk["choices"][0]["index"] == 1
            assert chunk["choices"][0]["delta"]["content"] == "X"
            assert fakes["roman"].num_open == 2
        assert fakes["roman"].all_closed.wait(timeout=5)


async def test_an_answer_uses_one_route_table(gateway: FakeGateway):
    """An answer that has begun does not see a new table."""

    def swaps(ask: ModelRequest) -> Any:
        gateway.table = gateway.table.model_copy(update={"table_version": 8, "name": "other"})
        return hands_over("roman")(ask)

    gateway.models = models(meta=swaps, roman=writes("IX"))
    chunks = await stream(gateway, stream_options={"include_usage": True})
    assert {(chunk["model"], chunk["system_fingerprint"]) for chunk in chunks} == {("generalist", "table-7")}
