"""Random requests: each gets an answer or a 4xx in OpenAI's error envelope, never a 500."""

import asyncio
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.chaos.fuzzing.mutations import HUGE, MUTATIONS
from benchmarks.chaos.fuzzing.requests import CHAT, PATHS, ROUTE, TEXT
from router.api.fields.refused import REFUSED
from router.api.requests import ChatRequest, CompletionRequest
from router.api.sse import to_json
from router.dialects.app import build_app
from router.model_port import ModelRequest
from tests.fakes.models import FakeGateway, FakeModel, Item, distributes, hands_over, models, served, writes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TEXT_PART = st.fixed_dictionaries({"type": st.just("text"), "text": st.text()})
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
        "content": st.text() | st.lists(TEXT_PART, min_size=1, max_size=3),
    }
)
EXPERTS = st.lists(st.sampled_from(["roman", "morse"]))
ROUTING = st.fixed_dictionaries(
    {},
    optional={
        "trace": st.booleans(),
        "experts": EXPERTS,
        "exclude": EXPERTS,
        "bias": st.dictionaries(st.sampled_from(["roman", "morse"]), st.floats(-101, 101)),
        "call_bias": st.floats(-101, 101),
    },
)
PLAUSIBLE = st.fixed_dictionaries(
    {
        "messages": st.lists(MESSAGE, min_size=1, max_size=3),
        "prompt": st.text(min_size=1) | st.lists(st.text(min_size=1), min_size=1, max_size=3),
    },
    optional={
        "model": st.sampled_from(["generalist", "generalist/meta", "generalist/roman", "gpt-4o"]),
        "stream": st.booleans(),
        "n": st.integers(1, 4),
        "stop": st.text(min_size=1, max_size=2) | st.lists(st.text(min_size=1, max_size=2), max_size=4),
        "max_tokens": st.integers(0, 20),
        "temperature": st.floats(0, 2.1),
        "top_p": st.floats(0, 1),
        "top_k": st.integers(0, 2**31),
        "seed": st.integers(-(2**63), 2**63),
        "routing": ROUTING,
    },
)
KNOWN = sorted(
    {*(field.name for field in REFUSED), *ChatRequest.model_fields, *CompletionRequest.model_fields}
)
RANDOM_FIELD = st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), JSON, max_size=1)
BODY = st.builds(lambda plausible, random: {**plausible, **random}, PLAUSIBLE, RANDOM_FIELD)


PROBE, WRITE = distributes(roman=0.9, morse=0.01), hands_over("roman", 0.9, "It is ")


def meta(ask: ModelRequest) -> Iterable[Item]:
    return (PROBE if ask.probe else WRITE)(ask)


@pytest.fixture(scope="module")
def fakes() -> Mapping[str, FakeModel]:
    return models(meta=meta, roman=writes("I", "X"), morse=writes("-"))


@pytest.fixture(scope="module")
def gateway(fakes: Mapping[str, FakeModel]) -> FakeGateway:
    return FakeGateway(fakes, max_body_bytes=8_000_000)


@pytest.fixture(scope="module")
def client(gateway: FakeGateway) -> Iterator[httpx.Client]:
    """Over a real connection."""
    with served(build_app(gateway)) as url, httpx.Client(base_url=url) as client:
        yield client


class Surface:
    """The app on its own event loop, so that a task which outlives its request is detected."""

    def __init__(self, runner: asyncio.Runner, gateway: FakeGateway, fakes: list[FakeModel]) -> None:
        self._runner = runner
        self._fakes = fakes
        transport = httpx.ASGITransport(build_app(gateway))
        self._http = httpx.AsyncClient(transport=transport, base_url="http://router")

    def send(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self._runner.run(self._send(method, path, **request))

    async def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        response = await self._http.request(method, path, **request)
        assert asyncio.all_tasks() == {asyncio.current_task()}
        assert [fake.num_open for fake in self._fakes] == [0, 0, 0]
        for fake in self._fakes:
            fake.asks.clear()
        return response


@pytest.fixture(scope="module")
def surface(gateway: FakeGateway, fakes: Mapping[str, FakeModel]) -> Iterator[Surface]:
    with asyncio.Runner() as runner:
        yield Surface(runner, gateway, list(fakes.values()))


MESSAGES_ERRORS = ("invalid_request_error", "authentication_error", "not_found_error")


def assert_refused(response: httpx.Response, *statuses: int) -> None:
    assert response.status_code in statuses, response.text[:300]
    error = response.json()["error"]
    if response.request.url.path.startswith("/v1/messages"):
        assert set(error) == {"message", "type"}
        assert error["type"] in MESSAGES_ERRORS
    else:
        assert set(error) == {"message", "type", "param", "code"}
        assert error["type"] == "invalid_request_error"
    # The message may repeat the path, whose length the server limits, but nothing of the body.
    assert 0 < len(error["message"]) < 1000 + len(response.request.url.raw_path)


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from([CHAT, TEXT]), body=BODY)
def test_no_body_breaks_the_server(client: httpx.Client, path: str, body: dict[str, Any]):
    response = client.post(path, content=json.dumps(body))
    assert response.status_code in (200, 400, 404)
    if response.status_code == 200:
        assert '"error"' not in response.text
        return
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=200))
def test_no_bytes_break_the_server(client: httpx.Client, body: bytes):
    response = client.post(CHAT, content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@settings(max_examples=100, deadline=None)
@given(path=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]))
def test_no_path_breaks_the_server(client: httpx.Client, path: str, method: str):
    response = client.request(method, f"/v1/_{quote(path)}")
    assert response.status_code in (404, 405)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("path", [CHAT, TEXT, ROUTE])
@pytest.mark.parametrize("name", MUTATIONS)
def test_no_mutated_body_breaks_the_server(surface: Surface, path: str, name: str):
    plain = b'{"messages":[{"role":"user","content":"\xc3\xa9 9?"}],"prompt":"9 is","max_tokens":4,"n":2}'
    statuses = set()
    for seed in range(3 if name in HUGE else 30):
        response = surface.send("POST", path, content=MUTATIONS[name](plain, Random(seed)))
        statuses.add(response.status_code)
        if response.status_code != 200:
            assert_refused(response, 400, 404)
    assert statuses <= {200, 400, 404}
    assert (400 in statuses) == (name not in HARMLESS)


# These leave valid JSON. A byte order mark does not (RFC 8259).
HARMLESS = ("spaces", "utf-7", "long text", "many fields")


@settings(max_examples=100, deadline=None)
@given(body=BODY, name=st.sampled_from(sorted(set(MUTATIONS) - set(HUGE))), random=st.randoms())
def test_no_random_mutated_body_breaks_the_server(
    surface: Surface, body: dict[str, Any], name: str, random: Random
):
    response = surface.send("POST", CHAT, content=MUTATIONS[name](to_json(body), random))
    if response.status_code != 200:
        assert_refused(response, 400, 404)


HEADER_NAMES = [
    "content-type",
    "content-encoding",
    "authorization",
    "accept",
    "x-request-id",
    "cookie",
    "host",
]
HEADERS = st.dictionaries(st.sampled_from(HEADER_NAMES), st.binary(max_size=200), max_size=4)


@settings(max_examples=150, deadline=None)
@given(headers=HEADERS)
def test_no_header_breaks_the_server(surface: Surface, headers: dict[str, bytes]):
    plain = {"messages": [{"role": "user", "content": "9?"}]}
    response = surface.send("POST", CHAT, headers=headers, content=json.dumps(plain))
    assert response.status_code in (200, 415)
    assert (response.status_code == 415) == _is_compressed(headers.get("content-encoding", b""))
    given = headers.get("x-request-id", b"").decode("latin-1")
    echoed = response.headers["x-request-id"]
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,128}", echoed)
    assert (echoed == given) == bool(re.fullmatch(r"[A-Za-z0-9._-]{1,128}", given))


def _is_compressed(coding: bytes) -> bool:
    return coding.decode("latin-1").strip().lower() not in ("", "identity")


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "BREW"])
def test_no_malformed_path_breaks_the_server(surface: Surface, method: str, path: str):
    response = surface.send(method, f"http://router{path}")
    if response.status_code != 200:
        assert_refused(response, 404, 405)
    assert "x-injected" not in response.headers
