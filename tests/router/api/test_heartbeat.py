"""A silent stream sends comments, so that clients and proxies do not take it for dead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx
import openai
import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from router.api.sse import DONE, HEARTBEAT, EventStream, Write
from router.availability import ModelState
from router.dialects.app import build_app
from router.errors import ModelFailed
from router.model_port import ModelChunk
from router.table import ModelEntry
from tests.fakes.cluster import Cluster, gateway_to, settle, table
from tests.fakes.models import STOP, FakeGateway, Pause, in_virtual_time, models, pause, served, to, word

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@dataclass
class Client:
    """Records what it receives and when. It takes `reads_s` per message and disconnects after `stays_s`."""

    reads_s: float = 0.0
    stays_s: float | None = None
    status: int | None = None
    got: list[tuple[float, bytes]] = field(default_factory=list)

    async def receive(self) -> Message:
        await pause(Pause(self.stays_s))
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self.status is None
            self.status = message["status"]
            return
        assert self.status is not None
        self.got.append((asyncio.get_running_loop().time(), message["body"]))
        if self.reads_s:
            await pause(Pause(self.reads_s))


async def play(items: Iterable[bytes | float | Exception], ended: list[bool], write: Write) -> None:
    try:
        for item in items:
            if isinstance(item, Exception):
                raise item
            if isinstance(item, float):
                await pause(Pause(item))
            else:
                await write(item)
    finally:
        ended.append(True)


def receive(items: Iterable[bytes | float | Exception], client: Client) -> list[tuple[float, bytes]]:
    ended: list[bool] = []

    async def main() -> None:
        stream = EventStream(partial(play, items, ended), "r", heartbeat_s=10)
        try:
            await stream({"type": "http"}, client.receive, client.send)
        finally:
            assert ended
            assert len(asyncio.all_tasks()) == 1

    in_virtual_time(main())
    return [(round(at, 3), body) for at, body in client.got]


@pytest.mark.parametrize(
    ("items", "got"),
    [
        ([25.0, b"a"], [(10, HEARTBEAT), (20, HEARTBEAT), (25, b"a"), (25, DONE)]),
        (
            [b"a", 15.0, b"b", 10.5, b"c"],
            [(0, b"a"), (10, HEARTBEAT), (15, b"b"), (25, HEARTBEAT), (25.5, b"c")],
        ),
        ([9.0, b"a", 9.0, b"b", 9.9], [(9, b"a"), (18, b"b"), (27.9, DONE)]),
    ],
)
def test_a_heartbeat_is_sent_after_each_silence_and_at_no_other_time(
    items: list[Any], got: list[tuple[float, bytes]]
):
    assert receive(items, Client())[: len(got)] == got


def test_an_error_is_a_status_before_the_first_heartbeat_and_an_event_after_it():
    client = Client()
    with pytest.raises(ModelFailed):
        receive([9.0, ModelFailed("broken")], client)
    assert (client.status, client.got) == (None, [])
    (_, beat), (at, error), (_, end) = receive([11.0, ModelFailed("broken")], client)
    assert (client.status, beat, at, end) == (200, HEARTBEAT, 11, DONE)
    assert b'"code":"model_failed"' in error


def test_a_slow_reader_gets_no_flood_of_heartbeats():
    bodies = [body for _, body in receive([b"a", b"b", b"c"], Client(reads_s=25))]
    assert [body for body in bodies if body != HEARTBEAT] == [b"a", b"b", b"c", DONE]
    assert bodies.count(HEARTBEAT) <= 3


def test_a_client_that_disconnects_during_a_silence_ends_the_stream():
    client = Client(stays_s=25)
    with pytest.raises(ClientDisconnect):
        receive([b"a", 3600.0, b"b"], client)
    assert [body for _, body in client.got] == [b"a", HEARTBEAT, HEARTBEAT]


@pytest.mark.parametrize("num_sent", [0, 1])
def test_a_send_on_a_closed_connection_is_a_disconnect_and_not_a_failure(
    num_sent: int, caplog: pytest.LogCaptureFixture
):
    class Closed(Client):
        async def send(self, message: Message) -> None:
            if len(self.got) == num_sent:
                raise OSError("the connection is closed")
            await super().send(message)

    client = Closed()
    with caplog.at_level(logging.DEBUG, "router"), pytest.raises(ClientDisconnect):
        receive([b"a", b"b", b"c"], client)
    assert [body for _, body in client.got] == [b"a"][:num_sent]
    assert caplog.records == []


def test_heartbeats_are_sent_while_an_expert_starts():
    async def main() -> list[str]:
        cluster = Cluster(meta=[[STOP], [word("a"), to("chem")]], chem=[[STOP], [word("b"), STOP]])
        cluster.models["chem"].falls_asleep()
        cluster.models["chem"].start_s = 35
        sleepy = table(experts={"chem": ModelEntry(app="chem", scales_to_zero=True)})
        async with gateway_to(cluster, sleepy) as gateway:
            await settle(1)
            transport = httpx.ASGITransport(build_app(gateway))
            async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
                response = await client.post(CHAT, json={"messages": HELLO, "stream": True})
            assert gateway.state("chem") is ModelState.READY
        return response.text.split("\n\n")

    blocks = in_virtual_time(main())
    beats = [block for block in blocks if block.startswith(":")]
    assert len(beats) == 3
    assert '"content":"a"' in blocks[0]
    assert '"content":"b"' in blocks[4]
    assert blocks[-2] == "data: [DONE]"


async def test_the_openai_sdk_ignores_heartbeats():
    def slow(ask: Any) -> list[Any]:
        return [Pause(0.05), word("a"), Pause(0.05), ModelChunk("b", num_tokens=1), STOP]

    gateway = FakeGateway(models(meta=slow))
    gateway.table = gateway.table.model_copy(update={"heartbeat_s": 0.01})
    with served(build_app(gateway)) as url:
        async with httpx.AsyncClient() as client:
            raw = (await client.post(url + CHAT, json={"messages": HELLO, "stream": True})).text
        assert raw.count(HEARTBEAT.decode()) >= 2
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
            stream = await sdk.chat.completions.create(
                model="generalist", messages=[{"role": "user", "content": "hello"}], stream=True
            )
            async with aclosing(stream):
                texts = [chunk.choices[0].delta.content or "" async for chunk in stream]
    assert "".join(texts) == "ab"
