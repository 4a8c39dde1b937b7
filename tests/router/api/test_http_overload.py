"""More requests than the router accepts: the client gets a 429, and all slots are free afterwards."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import httpx

from router.dialects.app import build_app
from router.model_port import ModelRequest
from router.table import Deadlines, Limits, RouteTable
from tests.fakes.models import STOP, FakeGateway, FakeModel, Item, Pause, models, word

BODY = {"messages": [{"role": "user", "content": "hello"}]}


def busy(num_slots: int, begun: asyncio.Semaphore, **changes: object) -> FakeGateway:
    """A meta whose answers begin, release `begun` and never end."""

    def stay(ask: ModelRequest) -> list[Item]:
        begun.release()
        return [word("a"), Pause(), STOP]

    gateway = FakeGateway(models(meta=stay), slots=num_slots)
    table = gateway.table.model_dump() | {"deadlines": Deadlines(queue_s=0.05).model_dump()} | changes
    return replace(gateway, table=RouteTable.model_validate(table))


async def test_a_request_that_cannot_begin_in_time_gets_429():
    begun = asyncio.Semaphore(0)
    gateway = busy(2, begun)
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        stay = [asyncio.create_task(client.post("/v1/chat/completions", json=BODY)) for _ in range(2)]
        for _ in stay:
            await begun.acquire()
        refused = await client.post("/v1/chat/completions", json=BODY)
        stats = (await client.get("/stats")).json()["admission"]
        for request in stay:
            request.cancel()
        await asyncio.gather(*stay, return_exceptions=True)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "overloaded")
    assert "openai-processing-ms" in refused.headers
    assert stats["meta"]["num_running"] == 2
    assert (gateway.admission.num_running, gateway.admission.num_waiting) == (0, 0)
    meta = gateway.models["meta"]
    assert isinstance(meta, FakeModel)
    assert len(meta.asks) == 2


async def test_a_burst_of_twice_the_slots_is_served():
    """Regression: half of it was refused, since a wait of seconds was more than half of `queue_s`."""
    gateway = FakeGateway(models(meta=lambda ask: [word("a"), Pause(0.01), STOP]), slots=16)
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        for _ in range(2):  # the second burst knows how long a call takes
            asked = (client.post("/v1/chat/completions", json=BODY) for _ in range(32))
            assert {response.status_code for response in await asyncio.gather(*asked)} == {200}


async def test_a_router_accepts_at_most_max_requests():
    begun = asyncio.Semaphore(0)
    gateway = busy(2, begun, limits=Limits(max_requests=1).model_dump())
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        stays = asyncio.create_task(client.post("/v1/chat/completions", json=BODY))
        await begun.acquire()
        refused = await client.post("/v1/chat/completions", content=b"not even read")
        health = await client.get("/healthz")
        stays.cancel()
        await asyncio.gather(stays, return_exceptions=True)
        assert (await client.get("/v1/models")).status_code == 200
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
    assert health.status_code == 200, "a busy router is healthy"
