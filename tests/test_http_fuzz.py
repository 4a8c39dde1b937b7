"""No request, however odd, is answered with a 500 or outside OpenAI's envelope."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.http import build_app
from router.neutral import NEUTRAL
from router.openai import ChatRequest, CompletionRequest
from tests.fakes import FakeGateway, hands_over, models, served, writes

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
KNOWN = sorted({*NEUTRAL, *ChatRequest.model_fields, *CompletionRequest.model_fields})
ODD = st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), JSON, max_size=1)
BODY = st.builds(lambda plausible, odd: {**plausible, **odd}, PLAUSIBLE, ODD)


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    fakes = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"), morse=writes("-"))
    with served(build_app(FakeGateway(fakes))) as url, httpx.Client(base_url=url) as client:
        yield client


@settings(max_examples=200, deadline=None)
@given(path=st.sampled_from(["/v1/chat/completions", "/v1/completions"]), body=BODY)
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
    response = client.post("/v1/chat/completions", content=body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


@settings(max_examples=100, deadline=None)
@given(path=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH"]))
def test_no_path_breaks_the_server(client: httpx.Client, path: str, method: str):
    response = client.request(method, f"/v1/_{quote(path)}")
    assert response.status_code in (404, 405)
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
