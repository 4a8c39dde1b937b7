"""What clients expect of a server besides its answers: monitors, load tools, browsers, compression."""

from __future__ import annotations

import gzip
import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

import httpx
import pytest

from router.api.middleware import HEALTH_PATHS
from router.dialects.app import build_app
from router.errors import ModelUnavailable
from router.table import RouteTable
from tests.fakes.models import FakeGateway, FakeModel, hands_over, models, writes
from tests.router.api.test_http_keys import ALICE, ALL, bearer, change

HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
PAGE = "https://chat.example"
PREFLIGHT = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(models(meta=hands_over("roman"), roman=writes("IX"), morse=writes("-")))


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


@pytest.mark.parametrize("path", HEALTH_PATHS)
async def test_the_health_check_has_the_names_that_monitors_ask_for(
    client: httpx.AsyncClient, gateway: FakeGateway, path: str
):
    change(gateway, keys=(ALICE,))
    assert (await client.get(path)).json()["status"] == "ok"
    gateway.meta_ready = False
    assert (await client.get(path)).status_code == 503
    assert (await client.head(path)).status_code == 503


async def test_the_version_is_that_of_the_package(client: httpx.AsyncClient):
    assert (await client.get("/version")).json() == {"version": version("expert-token-routing")}


@pytest.mark.parametrize(
    "path",
    [
        "/healthz",
        "/health",
        "/v1/models",
        "/v1/models/generalist/roman",
        "/stats",
        "/openapi.json",
        "/version",
    ],
)
async def test_every_get_can_be_asked_as_head(client: httpx.AsyncClient, path: str):
    got, head = await client.get(path), await client.head(path)
    assert head.status_code == got.status_code == 200
    assert head.content == b""
    for name in ("content-length", "content-type"):
        assert head.headers[name] == got.headers[name]
    assert head.headers["x-request-id"]


@pytest.mark.parametrize(("path", "status"), [(CHAT, 405), ("/nowhere", 404), ("/v1/models/gpt-4o", 404)])
async def test_a_head_of_anything_else_has_its_error_without_a_body(
    client: httpx.AsyncClient, path: str, status: int
):
    response = await client.head(path)
    assert (response.status_code, response.content) == (status, b"")


async def test_a_head_needs_a_key_where_a_get_does(client: httpx.AsyncClient, gateway: FakeGateway):
    change(gateway, keys=(ALICE,))
    assert (await client.head("/v1/models")).status_code == 401
    assert (await client.head("/v1/models", headers=bearer(ALL))).status_code == 200


async def test_a_compressed_body_is_read(client: httpx.AsyncClient, gateway: FakeGateway):
    body = gzip.compress(json.dumps({"messages": HELLO}).encode())
    response = await client.post(CHAT, content=body, headers={"content-encoding": "gzip"})
    assert response.json()["choices"][0]["message"]["content"] == "IX"
    gateway.max_body_bytes = 1000
    bomb = gzip.compress(json.dumps({"messages": HELLO, "user": "x" * 1_000_000}).encode())
    for content, coding, status in ((bomb, "gzip", 413), (body, "zstd", 415), (body, "deflate", 400)):
        response = await client.post(CHAT, content=content, headers={"content-encoding": coding})
        assert response.status_code == status
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("origins", [(PAGE,), ("https://other.example", PAGE), ("*",)])
async def test_a_page_of_an_allowed_origin_may_ask(
    client: httpx.AsyncClient, gateway: FakeGateway, origins: tuple[str, ...]
):
    change(gateway, cors_origins=origins, keys=(ALICE,))
    preflight = await client.options(CHAT, headers=PREFLIGHT)  # browsers send it without the key
    assert preflight.status_code == 200
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
    for key, status in ((bearer(ALL), 200), ({}, 401)):
        response = await client.post(CHAT, json={"messages": HELLO}, headers={"origin": PAGE, **key})
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] in (PAGE, "*")
        assert "x-request-id" in response.headers["access-control-expose-headers"]


async def test_a_page_of_another_origin_may_not(client: httpx.AsyncClient, gateway: FakeGateway):
    change(gateway, cors_origins=("https://other.example",))
    assert "access-control-allow-origin" not in (await client.options(CHAT, headers=PREFLIGHT)).headers
    response = await client.post(CHAT, json={"messages": HELLO}, headers={"origin": PAGE})
    assert "access-control-allow-origin" not in response.headers


async def test_without_origins_a_preflight_is_a_wrong_method(client: httpx.AsyncClient):
    response = await client.options(CHAT, headers=PREFLIGHT)
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert "access-control-allow-origin" not in response.headers


class WithoutTable(FakeGateway):
    """A router that has just started."""

    @property
    def table(self) -> RouteTable:
        raise ModelUnavailable("this router has no route table yet")

    @table.setter
    def table(self, table: RouteTable) -> None:
        pass


async def test_a_router_without_a_table_is_unavailable():
    transport = httpx.ASGITransport(build_app(WithoutTable(models())))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        response = await client.get("/v1/models", headers={"origin": PAGE})
    assert (response.status_code, response.json()["error"]["code"]) == (503, "model_unavailable")


TEMPLATE = "{{ messages[0].content }}"


async def test_a_template_of_the_request_needs_the_operators_leave(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    refused = await client.post(CHAT, json={"messages": HELLO, "chat_template": TEMPLATE})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "chat_template")
    assert "http.allow_chat_template" in refused.json()["error"]["message"]
    change(gateway, allow_chat_template=True)
    assert (await client.post(CHAT, json={"messages": HELLO, "chat_template": TEMPLATE})).status_code == 200
    meta = gateway.models["meta"]
    assert isinstance(meta, FakeModel)
    options = meta.asks[0].prompt.options
    assert options is not None
    assert options.chat_template == TEMPLATE


@pytest.mark.parametrize(
    "field", [{"logit_bias": {"5": 1}}, {"stop_token_ids": [5]}, {"allowed_token_ids": [5]}]
)
async def test_token_ids_need_one_vocabulary_or_a_model_that_is_addressed_by_name(
    client: httpx.AsyncClient, gateway: FakeGateway, field: dict[str, Any]
):
    [name] = field
    chat, text = {"messages": HELLO, **field}, {"prompt": "9 is", **field}
    for path, body in ((CHAT, chat), (TEXT, {**text, "routing": {}})):
        response = await client.post(path, json=body)
        assert (response.status_code, response.json()["error"]["param"]) == (400, name)
        assert "Those of roman, morse are" in response.json()["error"]["message"]
    gateway.vocabularies = {"meta": "v", "roman": "v", "morse": "other"}
    response = await client.post(CHAT, json=chat)
    assert "Those of morse are" in response.json()["error"]["message"]
    assert (await client.post("/v1/route", json=chat)).status_code == 400
    for path, body in (
        (CHAT, {**chat, "model": "generalist/roman"}),
        (CHAT, {**chat, "routing": {"force": "roman"}}),
        (CHAT, {**chat, "routing": {"experts": ["roman"]}}),
        (CHAT, {**chat, "routing": {"exclude": ["morse"]}}),
        (TEXT, text),  # not routed: the meta writes it all
    ):
        assert (await client.post(path, json=body)).status_code == 200
