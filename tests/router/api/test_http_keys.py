"""API keys over HTTP: authentication, the experts that a key may reach, and its limits."""

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openai import AuthenticationError, OpenAI, RateLimitError
from rich.console import Console
from typer.testing import CliRunner

from cluster.cli.main import app as etr
from cluster.errors import AskError
from cluster.serve.app_status import AppEvent
from cluster.serve.readiness import ReadinessCheck
from cluster.status.key_usage import fetch_key_usage
from cluster.status.router_view import fetch_router_view
from router.admission.context import AdmissionContext
from router.api.keys import digest_of
from router.api.middleware import HEALTH_PATHS
from router.api_key import ApiKey
from router.decoding.decode import Decoder
from router.decoding.generation import GenerationRequest
from router.dialects.app import build_app
from router.errors import ModelUnavailable
from router.model_port import Finish, ModelChunk, ModelRequest
from router.table import Limits, ModelEntry, RouteTable
from tests.fakes.models import (
    FakeGateway,
    FakeModel,
    Pause,
    distributes,
    hands_over,
    models,
    served,
    to,
    writes,
)
from tests.router.api.test_http_stream import Visit

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


def asks(gateway: FakeGateway, name: str) -> list[ModelRequest]:
    model = gateway.models[name]
    assert isinstance(model, FakeModel)
    return model.asks


# Every route of the app, so that a new one cannot be forgotten here.
ROUTES = [
    (method, getattr(route, "path", "").replace("{model_id:path}", "generalist"))
    for route in build_app(FakeGateway({})).routes
    for method in getattr(route, "methods", ())
]
NO_ROUTES = [("GET", "/"), ("GET", "/nowhere"), ("DELETE", "/stats"), ("GET", CHAT), ("GET", "/healthz/")]


def test_the_list_of_routes_is_complete():
    known = {("POST", CHAT), ("POST", TEXT), ("POST", ROUTE), ("GET", "/stats"), ("GET", "/healthz")}
    assert known | {("GET", "/v1/models"), ("GET", "/openapi.json")} <= set(ROUTES)


BODIES: dict[str, Any] = {
    "/v1/feedback": {"id": f"chatcmpl-{'0' * 32}", "right_expert": None},
    "/v1/messages": {"messages": HELLO, "max_tokens": 9},
    "/v1/responses": {"input": HELLO},
    "/v1/responses/input_tokens": {"input": HELLO},
    "/tokenize": {"messages": HELLO},
    "/v1/embeddings": {"model": "generalist/small", "input": "a"},
    "/detokenize": {"tokens": [5]},
}


@pytest.mark.parametrize(("method", "path"), ROUTES + NO_ROUTES)
async def test_every_path_but_the_health_probe_needs_a_key(
    client: httpx.AsyncClient, gateway: FakeGateway, method: str, path: str
):
    is_probe = path in (ROUTE, "/v1/messages/count_tokens", "/v1/responses/input_tokens")
    gateway.models = models(meta=distributes(roman=0.6) if is_probe else writes("IX"), small=writes())
    change(gateway, embedders={"small": ModelEntry(app="small")})
    gateway.ready = ("roman", "morse", "small")
    body = BODIES.get(path, {"messages": HELLO, "prompt": "9 is"}) if method == "POST" else None
    for headers in ({}, bearer("wrong-key-0123456789"), {"authorization": f"Basic {ALL}"}):
        response = await client.request(method, path, json=body, headers=headers)
        if path in HEALTH_PATHS:
            assert response.status_code == 200
            continue
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        error = response.json()["error"]
        assert error.get("code", error["type"]) in ("invalid_api_key", "authentication_error")
        assert "wrong-key" not in response.text
    response = await client.request(method, path, json=body, headers=bearer(ALL))
    assert (response.status_code == 200) is ((method, path) in ROUTES), response.text


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(header=st.binary(max_size=40) | st.binary(max_size=40).map(lambda key: b"Bearer " + key))
async def test_random_authorization_headers_get_401(client: httpx.AsyncClient, header: bytes):
    response = await client.get("/v1/models", headers={b"authorization": header})
    assert response.status_code == 401
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_second_authorization_header_is_ignored(client: httpx.AsyncClient):
    wrong_first = [("authorization", "Bearer nonsense"), ("authorization", f"Bearer {ALL}")]
    assert (await client.get("/v1/models", headers=wrong_first)).status_code == 401


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 401), (bearer("wrong"), 401), ({**bearer(ALL), "x-request-timeout-seconds": "0"}, 400)],
)
async def test_the_body_of_a_refused_request_is_not_read(
    gateway: FakeGateway, headers: dict[str, str], status: int
):
    class Unread(Visit):
        async def _receive(self) -> Any:
            raise AssertionError("the body was read")

    visit = Unread(build_app(gateway), CHAT, {}, headers=headers)
    await visit.task
    assert visit.sent[0]["status"] == status


async def test_a_router_without_a_route_table_answers_503():
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
async def test_the_meta_never_hands_over_to_an_expert_that_the_key_does_not_permit(
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


async def test_a_hand_over_to_an_expert_that_the_key_does_not_permit_is_an_error(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    gateway.models = models(meta=lambda ask: [to("morse")], morse=writes("DAH"))
    assert (await client.post(CHAT, json={"messages": HELLO}, headers=bearer(ALL))).status_code == 200
    assert (await client.post(CHAT, json={"messages": HELLO}, headers=bearer(SOME))).status_code == 500
    assert len(asks(gateway, "morse")) == 1


async def test_an_expert_that_the_key_does_not_permit_does_not_exist_for_it(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    client.headers.update(bearer(SOME))
    listed = [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert listed == ["generalist", "generalist/meta", "generalist/roman"]
    assert (await client.get("/v1/models/generalist/morse")).status_code == 404
    gateway.ejected = {"morse": {"a": "it produced nothing in time"}}
    context = AdmissionContext(queue_s=1, max_waiting=1)
    async with gateway.admission.slot("morse", "morse", context, has_output=False, left_s=1):
        stats = (await client.get("/stats")).json()
    assert set(stats["models"]) == {"meta", "roman"}
    assert stats["admission"] == stats["ejected"] == {}
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


async def test_a_key_without_experts_can_use_the_generalist_and_the_meta(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(BOB.model_copy(update={"experts": ()}),))
    answer = await client.post(CHAT, json={"messages": HELLO}, headers=bearer(SOME))
    assert answer.json()["choices"][0]["message"]["content"] == "It is I do not know."
    assert asks(gateway, "meta")[-1].allowed == ()


async def test_every_generation_has_the_name_of_the_key(
    client: httpx.AsyncClient, gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    keys = []

    class Watched(Decoder):
        def decode(self, generation: GenerationRequest) -> Any:
            assert generation.admission is not None
            keys.append(generation.admission.key)
            return super().decode(generation)

    monkeypatch.setattr("router.api.endpoints.Decoder", Watched)
    await client.post(CHAT, json={"messages": HELLO, "n": 2}, headers=bearer(SOME))
    change(gateway, keys=())
    await client.post(CHAT, json={"messages": HELLO})
    assert keys == ["bob", "bob", ""]


@pytest.mark.parametrize("name", ["x-request-disconnect-disabled", "X-Request-Timeout-Seconds"])
async def test_headers_that_control_the_proxy_are_refused(
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


async def test_a_new_route_table_changes_the_known_keys_at_once(
    client: httpx.AsyncClient, gateway: FakeGateway
):
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


async def test_a_key_that_is_revoked_while_the_body_is_received_is_refused(gateway: FakeGateway):
    class Slow(Visit):
        async def _receive(self) -> Any:
            change(gateway, keys=(BOB,))
            return await super()._receive()

    visit = Slow(build_app(gateway), CHAT, {}, headers=bearer(ALL))
    await visit.task
    assert visit.sent[0]["status"] == 401
    assert asks(gateway, "meta") == []


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_counts_as_open_until_its_answer_has_ended(gateway: FakeGateway, stream: bool):
    has_output = asyncio.Event()

    def meta(ask: ModelRequest) -> list[Any]:
        has_output.set()
        return [ModelChunk("I", num_tokens=1, num_prompt_tokens=3), Pause(), ModelChunk(finish=Finish.STOP)]

    gateway.models = models(meta=meta)
    change(gateway, keys=(ALICE.model_copy(update={"max_concurrent": 1}), BOB))
    app = build_app(gateway)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://router") as client:
        visit = Visit(app, CHAT, {"stream": stream}, headers=bearer(ALL))
        async with asyncio.timeout(5):
            await has_output.wait()
            refused = await client.get("/v1/models", headers=bearer(ALL))
            assert refused.status_code == 429
            assert refused.json()["error"]["code"] == "rate_limit_exceeded"
            assert int(refused.headers["retry-after"]) >= 1
            assert (await client.get("/v1/models", headers=bearer(SOME))).status_code == 200
            change(gateway, limits=Limits(max_requests=1))
            full = await client.get("/v1/models", headers=bearer(SOME))
            assert (full.status_code, full.json()["error"]["code"]) == (429, "overloaded")
            assert int(full.headers["retry-after"]) >= 1
            # Health probes and unauthenticated requests do not count, and are answered at the limit too.
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/v1/models")).status_code == 401
            visit.left.set()
            await visit.task
            assert (await client.get("/v1/models", headers=bearer(ALL))).status_code == 200


@pytest.mark.parametrize("limit", ["max_concurrent", "requests_per_minute"])
@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (CHAT, {"messages": HELLO, "n": 5}, "n"),
        (TEXT, {"prompt": ["9?"] * 5}, "prompt"),
        (TEXT, {"prompt": ["9?"] * 3, "n": 2}, "n"),
    ],
)
async def test_more_choices_than_the_limits_of_a_key_are_refused_by_field(
    client: httpx.AsyncClient, gateway: FakeGateway, limit: str, path: str, body: dict[str, Any], field: str
):
    change(gateway, keys=(ALICE.model_copy(update={limit: 4}), BOB))
    refused = await client.post(path, json=body, headers=bearer(ALL))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field)
    assert f"but {limit} of key 'alice' is 4" in refused.json()["error"]["message"]
    assert asks(gateway, "meta") == []


async def test_refused_requests_do_not_count_towards_the_request_rate(
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


async def test_answers_to_a_limited_key_say_what_is_left_as_openai_does(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    limited = ALICE.model_copy(update={"requests_per_minute": 60, "tokens_per_day": 100_000})
    change(gateway, keys=(limited, BOB))
    answer = await client.post(CHAT, json={"messages": HELLO, "n": 2}, headers=bearer(ALL))
    found = {name: value for name, value in answer.headers.items() if name.startswith("x-ratelimit")}
    assert found["x-ratelimit-limit-requests"] == "60"
    assert found["x-ratelimit-remaining-requests"] == "8"
    assert found["x-ratelimit-limit-tokens"] == "100000"
    assert 0 < int(found["x-ratelimit-remaining-tokens"]) <= 100_000
    assert found["x-ratelimit-reset-requests"].endswith("s")
    for _ in range(9):
        refused = await client.get("/v1/models", headers=bearer(ALL))
    assert (refused.status_code, refused.headers["x-ratelimit-remaining-requests"]) == (429, "0")
    unlimited = await client.get("/v1/models", headers=bearer(SOME))
    assert not any(name.startswith("x-ratelimit") for name in unlimited.headers)


async def test_a_key_sees_its_own_usage_and_one_that_may_sees_that_of_all(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(ALICE.model_copy(update={"sees_usage": True, "max_concurrent": 3}), BOB))
    answer = await client.post(CHAT, json={"messages": HELLO, "n": 2}, headers=bearer(SOME))
    usage = answer.json()["usage_by_model"].values()
    num_tokens = sum(each["prompt_tokens"] + each["completion_tokens"] for each in usage)
    await gateway.limits.leases.renew_all()
    own = (await client.get("/keys/usage", headers=bearer(SOME))).json()["data"]
    assert [(each["name"], each["requests_today"], each["tokens_today"]) for each in own] == [
        ("bob", 2, num_tokens)
    ]
    await gateway.limits.leases.renew_all()
    every = (await client.get("/keys/usage", headers=bearer(ALL))).json()["data"]
    assert [(each["name"], each["max_concurrent"]) for each in every] == [("alice", 3), ("bob", None)]
    assert every[1]["requests_today"] == 3
    assert every[0]["sha256"] == ALICE.sha256[:8]


async def test_every_response_has_its_processing_time(client: httpx.AsyncClient):
    for response in (
        await client.get("/healthz"),
        await client.get("/v1/models"),
        await client.get("/nowhere", headers=bearer(ALL)),
        await client.post(CHAT, json={"messages": HELLO, "stream": True}, headers=bearer(ALL)),
    ):
        assert 0 <= int(response.headers["openai-processing-ms"]) < 60_000
        assert "x-request-id" in response.headers


async def test_keys_are_never_logged_or_returned(
    client: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture
):
    def breaks(ask: ModelRequest) -> list[ModelChunk]:
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


def test_the_openai_sdk_raises_its_own_errors_for_refused_keys(gateway: FakeGateway):
    change(gateway, keys=(ALICE.model_copy(update={"requests_per_minute": 1}),))
    with served(build_app(gateway)) as url:
        with OpenAI(base_url=f"{url}/v1", api_key="wrong-key-0123456789", max_retries=0) as sdk:
            with pytest.raises(AuthenticationError) as unknown:
                sdk.models.list()
            assert unknown.value.code == "invalid_api_key"
        with OpenAI(base_url=f"{url}/v1", api_key=ALL, max_retries=0) as alice:
            assert "generalist" in [model.id for model in alice.models.list()]
            with pytest.raises(RateLimitError) as hasty:
                alice.models.list()
            assert hasty.value.code == "rate_limit_exceeded"


def test_the_readiness_check_needs_no_key_and_the_router_view_needs_one(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("ETR_API_KEY", raising=False)
    table = gateway.table.model_dump(mode="json")
    deploy = {"applications": [{"name": "router", "deployments": [{"user_config": table}]}]}
    events: list[AppEvent] = []
    with served(build_app(gateway)) as url:
        assert ReadinessCheck(url, deploy, (), events.append).done()
        assert [event.app for event in events] == ["meta", "morse", "roman"]
        blind = fetch_router_view(url)
        assert (blind.states["roman"], blind.loads) == ("ready", {})
        assert blind.note == "the router requires an API key: set ETR_API_KEY"
        monkeypatch.setenv("ETR_API_KEY", "an-old-key-0123456789-ä")
        assert fetch_router_view(url).note == "the router does not know the API key in ETR_API_KEY"
        monkeypatch.setenv("ETR_API_KEY", f"{ALL}\n")
        seen = fetch_router_view(url)
        assert (seen.note, set(seen.loads)) == ("", {"meta", "roman", "morse"})


def test_etr_shows_what_keys_have_used_of_their_limits(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch):
    change(gateway, keys=(ALICE.model_copy(update={"sees_usage": True, "tokens_per_day": 5000}), BOB))
    with served(build_app(gateway)) as url:
        monkeypatch.setenv("ETR_API_KEY", ALL)
        monkeypatch.setattr("cluster.cli.keys.out", Console(width=160))
        shown = CliRunner().invoke(etr, ["keys", "usage", "--url", url])
        assert shown.exit_code == 0, shown.output
        assert [name in shown.output for name in ("alice", "bob", "5,000", ALICE.sha256[:8])] == [True] * 4
        assert ALL not in shown.output
        monkeypatch.setenv("ETR_API_KEY", SOME)
        assert [usage.name for usage in fetch_key_usage(url)] == ["bob"]
        monkeypatch.delenv("ETR_API_KEY")
        with pytest.raises(AskError, match="answers 401: set ETR_API_KEY to a valid API key"):
            fetch_key_usage(url)
