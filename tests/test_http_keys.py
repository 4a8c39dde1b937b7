"""Who is let in, what exists for them, and how much of it they may take."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AuthenticationError, OpenAI, RateLimitError

from cluster.events import AppEvent
from cluster.opening import Opening
from cluster.router_view import look
from router.decode import Decoder
from router.errors import ModelUnavailable
from router.http import build_app
from router.job import Job
from router.keys import digest_of
from router.model import Ask, Finish, Piece
from router.table import ApiKey, Limits, RouteTable
from tests.fakes import FakeGateway, FakeModel, Pause, distributes, hands_over, models, served, to, writes
from tests.test_http_stream import Visit

HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
ALL, SOME = "key-of-alice-0123456789", "key-of-bob-0123456789"
ALICE = ApiKey(name="alice", sha256=digest_of(ALL))
BOB = ApiKey(name="bob", sha256=digest_of(SOME), experts=("roman",))


@pytest.fixture
def gateway() -> FakeGateway:
    gateway = FakeGateway(
        models(meta=hands_over("morse", 0.9, "It is "), roman=writes("I", "X"), morse=writes("DAH"))
    )
    change(gateway, keys=(ALICE, BOB))
    return gateway


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def change(gateway: FakeGateway, **fields: Any) -> None:
    gateway.table = gateway.table.model_copy(update=fields)


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def asks(gateway: FakeGateway, name: str) -> list[Ask]:
    model = gateway.models[name]
    assert isinstance(model, FakeModel)
    return model.asks


# Every route that the app has: whoever adds one cannot forget it here.
ROUTES = [
    (method, getattr(route, "path", "").replace("{model_id:path}", "generalist"))
    for route in build_app(FakeGateway({})).routes
    for method in getattr(route, "methods", ())
]
NO_ROUTES = [("GET", "/"), ("GET", "/nowhere"), ("DELETE", "/stats"), ("GET", CHAT), ("GET", "/healthz/")]


def test_the_walk_knows_the_routes():
    known = {("POST", CHAT), ("POST", TEXT), ("POST", ROUTE), ("GET", "/stats"), ("GET", "/healthz")}
    assert known | {("GET", "/v1/models"), ("GET", "/openapi.json")} <= set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES + NO_ROUTES)
async def test_no_path_but_the_probes_is_open(
    client: httpx.AsyncClient, gateway: FakeGateway, method: str, path: str
):
    gateway.models = models(meta=distributes(roman=0.6) if path == ROUTE else writes("IX"))
    body = {"messages": HELLO, "prompt": "9 is"} if method == "POST" else None
    for headers in ({}, bearer("wrong-key-0123456789"), {"authorization": f"Basic {ALL}"}):
        response = await client.request(method, path, json=body, headers=headers)
        if path == "/healthz":
            assert response.status_code == 200
            continue
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert response.json()["error"]["code"] == "invalid_api_key"
        assert "wrong-key" not in response.text
    response = await client.request(method, path, json=body, headers=bearer(ALL))
    assert (response.status_code == 200) is ((method, path) in ROUTES), response.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(header=st.binary(max_size=40) | st.binary(max_size=40).map(lambda key: b"Bearer " + key))
async def test_whatever_stands_in_the_header_is_refused_and_breaks_nothing(
    client: httpx.AsyncClient, header: bytes
):
    response = await client.get("/v1/models", headers={b"authorization": header})
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_second_authorization_header_changes_nothing(client: httpx.AsyncClient):
    wrong_first = [("authorization", "Bearer nonsense"), ("authorization", f"Bearer {ALL}")]
    assert (await client.get("/v1/models", headers=wrong_first)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), (bearer("wrong"), 401), ({**bearer(ALL), "x-request-timeout-seconds": "0"}, 400)],
)
async def test_whoever_is_refused_is_not_read(gateway: FakeGateway, headers: dict[str, str], status: int):
    class Unread(Visit):
        async def _receive(self) -> Any:
            raise AssertionError("the body was read")

    visit = Unread(build_app(gateway), CHAT, {}, headers=headers)
    await visit.task
    assert visit.sent[0]["status"] == status


async def test_a_router_without_a_table_lets_nobody_in():
    class Empty(FakeGateway):
        @property
        def table(self) -> RouteTable:
            raise ModelUnavailable("this router has no route table yet")

        @table.setter
        def table(self, table: RouteTable) -> None: ...

    transport = httpx.ASGITransport(build_app(Empty({})))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        for path in ("/stats", "/v1/models", "/nowhere", "/healthz"):
            response = await client.get(path, headers=bearer(ALL))
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("path", "question"),
    [(CHAT, {"messages": HELLO}), (TEXT, {"prompt": "9 is", "routing": {}})],
)
async def test_an_expert_that_a_key_does_not_permit_is_never_handed_over_to(
    client: httpx.AsyncClient, gateway: FakeGateway, path: str, question: dict[str, Any], stream: bool
):
    body = {**question, "stream": stream}
    everything = await client.post(path, json=body, headers=bearer(ALL))
    assert "DAH" in everything.text
    assert asks(gateway, "meta")[-1].allowed == ("roman", "morse")
    num_answers = len(asks(gateway, "morse"))
    something = await client.post(path, json=body, headers=bearer(SOME))
    assert "I do not know." in something.text
    assert asks(gateway, "meta")[-1].allowed == ("roman",)
    assert len(asks(gateway, "morse")) == num_answers == 1


async def test_a_meta_that_hands_over_all_the_same_is_not_obeyed(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    gateway.models = models(meta=lambda ask: [to("morse")], morse=writes("DAH"))
    assert (await client.post(CHAT, json={"messages": HELLO}, headers=bearer(ALL))).status_code == 200
    assert (await client.post(CHAT, json={"messages": HELLO}, headers=bearer(SOME))).status_code == 500
    assert len(asks(gateway, "morse")) == 1


async def test_an_expert_that_a_key_does_not_permit_does_not_exist(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    client.headers.update(bearer(SOME))
    listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert listed == ["generalist", "generalist/meta", "generalist/roman"]
    assert (await client.get("/v1/models/generalist/morse")).status_code == 404
    async with gateway.admission.slot("morse", "", begun=False, queue_s=1, max_waiting=1):
        told = (await client.get("/stats")).json()
    assert set(told["models"]) == {"meta", "roman"}
    assert told["admission"] == {}
    named = await client.post(CHAT, json={"messages": HELLO, "model": "generalist/morse"})
    assert (named.status_code, named.json()["error"]["code"]) == (404, "model_not_found")
    for routing in (
        {"force": "morse"},
        {"experts": ["morse"]},
        {"exclude": ["morse"]},
        {"bias": {"morse": 1}},
    ):
        refused = await client.post(CHAT, json={"messages": HELLO, "routing": routing})
        assert refused.status_code == 400
        assert "no expert named 'morse'; experts: roman" in refused.json()["error"]["message"]
    assert asks(gateway, "meta") == asks(gateway, "morse") == []
    gateway.models = models(meta=distributes(morse=0.6, roman=0.3))
    route = (await client.post(ROUTE, json={"messages": HELLO})).json()
    assert (route["decision"], route["experts"]) == (None, [{"name": "roman", "probability": 0.3}])


async def test_a_key_without_experts_still_has_the_generalist_and_the_meta(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(BOB.model_copy(update={"experts": ()}),))
    answer = await client.post(CHAT, json={"messages": HELLO}, headers=bearer(SOME))
    assert answer.json()["choices"][0]["message"]["content"] == "It is I do not know."
    assert asks(gateway, "meta")[-1].allowed == ()


async def test_the_name_of_the_key_goes_with_every_job(
    client: httpx.AsyncClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    keys = []

    class Watched(Decoder):
        def decode(self, job: Job) -> Any:
            keys.append(job.key)
            return super().decode(job)

    monkeypatch.setattr("router.http.Decoder", Watched)
    await client.post(CHAT, json={"messages": HELLO, "n": 2}, headers=bearer(SOME))
    change(gateway, keys=())
    await client.post(CHAT, json={"messages": HELLO})
    assert keys == ["bob", "bob", ""]


@pytest.mark.parametrize("name", ["x-request-disconnect-disabled", "X-Request-Timeout-Seconds"])
async def test_headers_by_which_a_client_would_rule_the_proxy_are_not_served(
    client: httpx.AsyncClient, gateway: FakeGateway, name: str
):
    headers = {**bearer(ALL), name: "?1"}
    for refused in (
        await client.post(CHAT, json={"messages": HELLO}, headers=headers),
        await client.get("/v1/models", headers=headers),
    ):
        assert refused.status_code == 400
        assert refused.json()["error"]["type"] == "invalid_request_error"
        assert name.lower() in refused.json()["error"]["message"]
    assert asks(gateway, "meta") == []
    change(gateway, keys=())
    assert (await client.get("/stats", headers={name: "0"})).status_code == 400


async def test_a_new_table_changes_who_is_known_at_once(client: httpx.AsyncClient, gateway: FakeGateway):
    async def statuses() -> list[int]:
        return [
            (await client.get("/stats", headers=headers)).status_code
            for headers in ({}, bearer(ALL), bearer(SOME))
        ]

    assert await statuses() == [401, 200, 200]
    change(gateway, keys=(BOB,))
    assert await statuses() == [401, 401, 200]
    change(gateway, keys=())
    assert await statuses() == [200, 200, 200]
    change(gateway, keys=(ALICE.model_copy(update={"name": "alice-2"}),))
    assert await statuses() == [401, 200, 401]


async def test_a_key_that_is_revoked_while_its_request_comes_in_is_refused(gateway: FakeGateway):
    class Slow(Visit):
        async def _receive(self) -> Any:
            change(gateway, keys=(BOB,))
            return await super()._receive()

    visit = Slow(build_app(gateway), CHAT, {}, headers=bearer(ALL))
    await visit.task
    assert visit.sent[0]["status"] == 401
    assert asks(gateway, "meta") == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_counts_until_its_answer_has_ended(gateway: FakeGateway, stream: bool):
    begun = asyncio.Event()

    def meta(ask: Ask) -> list[Any]:
        begun.set()
        return [Piece("I", num_tokens=1, num_prompt_tokens=3), Pause(), Piece(finish=Finish.STOP)]

    gateway.models = models(meta=meta)
    change(gateway, keys=(ALICE.model_copy(update={"max_concurrent": 1}), BOB))
    app = build_app(gateway)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        visit = Visit(app, CHAT, {"stream": stream}, headers=bearer(ALL))
        async with asyncio.timeout(5):
            await begun.wait()
            refused = await client.get("/v1/models", headers=bearer(ALL))
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get("/v1/models", headers=bearer(SOME))).status_code == 200
            change(gateway, limits=Limits(max_requests=1))
            full = await client.get("/v1/models", headers=bearer(SOME))
            assert (full.status_code, full.json()["error"]["code"]) == (429, "overloaded")
            assert int(full.headers["retry-after"]) >= 1
            # Neither probes nor strangers take a place, and neither is kept out by whoever has one.
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 401
            visit.left.set()
            await visit.task
            assert (await client.get("/v1/models", headers=bearer(ALL))).status_code == 200


async def test_a_key_has_its_pace_and_strangers_do_not_spend_it(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(ALICE.model_copy(update={"requests_per_minute": 1}), BOB))
    await client.get("/v1/models", headers=bearer("wrong-key-0123456789"))
    await client.get("/v1/models", headers={**bearer(ALL), "x-request-timeout-seconds": "9"})
    assert (await client.get("/v1/models", headers=bearer(ALL))).status_code == 200
    refused = await client.post(CHAT, json={"messages": HELLO}, headers=bearer(ALL))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    assert 50 <= int(refused.headers["retry-after"]) <= 60
    assert (await client.get("/v1/models", headers=bearer(SOME))).status_code == 200
    assert asks(gateway, "meta") == []


async def test_every_response_tells_how_long_it_took_to_begin(client: httpx.AsyncClient):
    for response in (
        await client.get("/healthz"),
        await client.get("/v1/models"),
        await client.get("/nowhere", headers=bearer(ALL)),
        await client.post(CHAT, json={"messages": HELLO, "stream": True}, headers=bearer(ALL)),
    ):
        assert 0 <= int(response.headers["openai-processing-ms"]) < 60_000
        assert "x-request-id" in response.headers


async def test_keys_are_in_no_log_and_no_answer(
    client: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
):
    def breaks(ask: Ask) -> list[Piece]:
        raise RuntimeError("broken")

    gateway.models = models(meta=breaks)
    caplog.set_level(logging.DEBUG)
    texts = []
    bodies: list[dict[str, Any]] = [
        {"messages": HELLO},
        {"messages": HELLO, "stream": True},
        {"messages": []},
    ]
    for headers in (bearer(ALL), bearer(f"{ALL}x"), {"authorization": ALL}):
        for body in bodies:
            response = await client.post(CHAT, json=body, headers=headers)
            assert response.status_code in (400, 401, 500)
            texts.append(f"{response.headers} {response.text}")
    assert "broken" in caplog.text
    assert ALL not in caplog.text + "".join(texts)
    assert HELLO[0]["content"] not in caplog.text


def test_openais_own_client_knows_the_refusals(gateway: FakeGateway):
    change(gateway, keys=(ALICE.model_copy(update={"requests_per_minute": 1}),))
    with served(build_app(gateway)) as url:
        with OpenAI(base_url=f"{url}/v1", api_key="wrong-key-0123456789", max_retries=0) as stranger:
            with pytest.raises(AuthenticationError) as unknown:
                stranger.models.list()
            assert unknown.value.code == "invalid_api_key"
        with OpenAI(base_url=f"{url}/v1", api_key=ALL, max_retries=0) as alice:
            assert "generalist" in [model.id for model in alice.models.list()]
            with pytest.raises(RateLimitError) as hasty:
                alice.models.list()
            assert hasty.value.code == "rate_limit_exceeded"


def test_a_change_opens_without_a_key_and_the_status_needs_one(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ETR_API_KEY", raising=False)
    table = gateway.table.model_dump(mode="json")
    deploy = {"applications": [{"name": "router", "deployments": [{"user_config": table}]}]}
    told: list[AppEvent] = []
    with served(build_app(gateway)) as url:
        assert Opening(url, deploy, (), told.append).done()
        assert [event.app for event in told] == ["meta", "morse", "roman"]
        blind = look(url)
        assert (blind.states["roman"], blind.loads) == ("ready", {})
        assert blind.note == "the router asks for an API key: set ETR_API_KEY"
        monkeypatch.setenv("ETR_API_KEY", "an-old-key-0123456789-ä")
        assert look(url).note == "the router does not know the API key in ETR_API_KEY"
        monkeypatch.setenv("ETR_API_KEY", f"{ALL}\n")
        seen = look(url)
        assert (seen.note, set(seen.loads)) == ("", {"meta", "roman", "morse"})
