"""Invalid requests and failures: the client always gets OpenAI's error envelope."""

import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from router.api.body import parse
from router.api.fields.messages import MAX_PARTS
from router.api.fields.strict import MAX_NAMES
from router.api.requests import MAX_MESSAGES, ChatRequest
from router.dialects.app import build_app
from router.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    InvalidRequest,
    ModelFailed,
    ModelOverloaded,
    ModelStalled,
    ModelUnavailable,
    RouterError,
)
from router.model_port import ModelChunk, ModelRequest
from router.prompt import Message
from tests.fakes.models import FakeGateway, FakeModel, Script, hands_over, models, served, writes

HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(
        models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"), morse=writes("-", "."))
    )


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, **fields}


def fails_with(error: Exception) -> Script:
    def script(ask: ModelRequest) -> list[ModelChunk | RouterError]:
        if isinstance(error, RouterError):
            return [error]
        raise error

    return script


UNSUPPORTED: list[tuple[str, Any]] = [
    ("use_beam_search", True),
    ("store", True),
    ("suffix", "x"),
    ("audio", {"voice": "alloy"}),
    ("modalities", ["text", "audio"]),
    ("web_search_options", {}),
]


@pytest.mark.parametrize("path", [CHAT, TEXT, ROUTE])
@pytest.mark.parametrize(("name", "value"), UNSUPPORTED)
async def test_an_unsupported_parameter_is_refused_by_name(
    client: httpx.AsyncClient, path: str, name: str, value: Any
):
    response = await client.post(path, json={"messages": HELLO, "prompt": "a", name: value})
    assert_error(response, 400, name, "unsupported_parameter")
    assert name in response.json()["error"]["message"]


PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}

BAD_CHAT: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "messages"),
    ({"messages": None}, "messages"),
    ({"messages": [{"role": "user", "content": None}]}, "messages.0.content"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
    ({"messages": [*HELLO, {"role": "user", "content": 5}]}, "messages.1.content"),
    ({"messages": [{"role": "wizard", "content": "a"}]}, "messages.0.role"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "messages.0.content.0.image_url.url",
    ),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages.0.content.0.type"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "text": "a"}]}]},
        "messages.0.content.0",
    ),
    ({"messages": [{"role": "system", "content": [PICTURE]}]}, "messages.0.content"),
    ({"model": 5}, "model"),
    ({"stream": "yes"}, "stream"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
    ({"n": 0}, "n"),
    ({"n": 17}, "n"),
    ({"n": True}, "n"),
    ({"stop": ""}, "stop.0"),
    ({"stop": ["x" * 257]}, "stop.0"),
    ({"stop": ["x"] * 17}, "stop"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": 10**400}, "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
    ({"temperature": 2.1}, "temperature"),
    ({"temperature": "1"}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"top_p": 1e999}, "top_p"),
    ({"top_k": -2}, "top_k"),
    ({"seed": 2**63}, "seed"),
    ({"routing": {"tracing": True}}, "routing.tracing"),
    ({"routing": {"bias": {"roman": 101}}}, "routing.bias.roman"),
    ({"routing": {"experts": ["latin"]}}, "routing.experts"),
    ({"routing": {"force": "latin"}}, "routing.force"),
    ({"routing": {"force": "roman", "exclude": ["roman"]}}, "routing"),
    ({"model": "generalist/roman", "routing": {"exclude": ["morse"]}}, "routing"),
]


@pytest.mark.parametrize(("fields", "param"), BAD_CHAT)
async def test_the_error_names_the_invalid_field(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
):
    body = json.dumps(chat(**fields)).replace("Infinity", "1e999")
    assert_error(await client.post(CHAT, content=body), 400, param, None)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"prompt": ""},
        {"prompt": []},
        {"prompt": [[]]},
        {"prompt": ["a", 1]},
        {"prompt": [1, -1]},
        {"prompt": [True]},
        {"prompt": {"text": "a"}},
        {"prompt": ["a"] * 33, "n": 4},
        {"prompt": [1, 2], "routing": {}},
    ],
)
async def test_the_error_names_an_invalid_prompt(client: httpx.AsyncClient, fields: dict[str, Any]):
    assert_error(await client.post(TEXT, json=fields), 400, "prompt", None)


async def test_best_of_must_equal_n(client: httpx.AsyncClient):
    response = await client.post(TEXT, json={"prompt": "a", "best_of": 2})
    assert_error(response, 400, "best_of", "unsupported_parameter")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'"\xff"', b'{"n": NaN}', b"[" * 9000, b'"\\ud800"']
)
async def test_a_body_that_is_not_a_json_object_is_refused(client: httpx.AsyncClient, body: bytes):
    assert_error(await client.post(CHAT, content=body), 400, None, None)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


@pytest.mark.parametrize("field", ["user", "messages", "stop", "tools", "prompt", "routing", "seed"])
@pytest.mark.parametrize("value", [nested(199), nested(400), "1" + "0" * 4000, "1" + "0" * 5000, "-1e999"])
async def test_deeply_nested_and_huge_values_do_not_break_the_server(
    client: httpx.AsyncClient, field: str, value: str
):
    for path in (CHAT, TEXT):
        question = '"messages": [{"role": "user", "content": "a"}], "prompt": "a"'
        response = await client.post(path, content=f'{{{question}, "{field}": {value}}}')
        assert response.status_code == 400 or response.json()["object"]  # fields that are ignored


@pytest.mark.parametrize("text", ["\\ud800", "\\udfff", "\\ude00\\ud83d", "a\\ud83d"])
@pytest.mark.parametrize(
    "body",
    [
        '{"messages": [{"role": "user", "content": "%s"}]}',
        '{"messages": [{"role": "user", "content": "a"}], "model": "%s"}',
        '{"messages": [{"role": "user", "content": "a"}], "stop": "%s"}',
        '{"messages": [{"role": "user", "content": "a"}], "routing": {"bias": {"%s": 1}}}',
    ],
)
async def test_a_lone_surrogate_is_refused(client: httpx.AsyncClient, body: str, text: str):
    assert_error(await client.post(CHAT, content=body % text), 400, None, None)


async def test_a_nul_character_is_ordinary_text(client: httpx.AsyncClient, gateway: FakeGateway):
    response = await client.post(CHAT, json=chat(messages=[{"role": "user", "content": "a\0b"}], stop="\0"))
    assert response.status_code == 200
    meta = gateway.models["meta"]
    assert isinstance(meta, FakeModel)
    assert meta.asks[0].prompt.messages == (Message("user", "a\0b"),)
    assert_error(await client.post(CHAT, json=chat(model="gene\0ralist")), 404, "model", "model_not_found")


ONE_OVER_THE_LIMIT: list[tuple[dict[str, Any], str]] = [
    ({"messages": HELLO * (MAX_MESSAGES + 1)}, "messages"),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": ""}] * (MAX_PARTS + 1)}]},
        "messages.0.content",
    ),
    ({"routing": {"experts": ["roman"] * (MAX_NAMES + 1)}}, "routing.experts"),
    ({"routing": {"exclude": ["roman"] * (MAX_NAMES + 1)}}, "routing.exclude"),
    ({"routing": {"bias": {f"e{number}": 1 for number in range(MAX_NAMES + 1)}}}, "routing.bias"),
    ({"routing": {f"e{number}": 1 for number in range(MAX_NAMES + 1)}}, "routing"),
    ({"routing": {"force": "x" * 257}}, "routing.force"),
    ({"model": "x" * 257}, "model"),
]


@pytest.mark.parametrize(("fields", "param"), ONE_OVER_THE_LIMIT)
async def test_one_item_more_than_the_limit_is_refused(
    client: httpx.AsyncClient, gateway: FakeGateway, fields: dict[str, Any], param: str
):
    gateway.max_body_bytes = 1_000_000
    assert_error(await client.post(CHAT, json=chat(**fields)), 400, param, None)


@pytest.mark.parametrize("fields", [{"experts": ["roman"] * MAX_NAMES}, {"exclude": ["roman"] * MAX_NAMES}])
async def test_as_many_items_as_the_limit_are_accepted(
    client: httpx.AsyncClient, gateway: FakeGateway, fields: dict[str, Any]
):
    gateway.max_body_bytes = 1_000_000
    body = chat(messages=HELLO * MAX_MESSAGES, routing=fields)
    assert (await client.post(CHAT, json=body)).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [1] * 1000},
        {"messages": [{"role": "user", "content": [1] * 1000}]},
        {"messages": HELLO, "routing": {"experts": [""] * 1000}},
        {"messages": HELLO, "routing": {"exclude": [""] * 1000}},
    ],
)
def test_validation_stops_at_the_first_invalid_item(fields: dict[str, Any]):
    """To report all of the 300,000 that fit into a body would block other requests."""
    with pytest.raises(InvalidRequest) as refused:
        parse(ChatRequest, json.dumps(fields).encode())
    assert isinstance(refused.value.__cause__, ValidationError)
    assert refused.value.__cause__.error_count() == 1


@pytest.mark.parametrize("routing", ['{"%s": 1}', '{"bias": {"%s": 1}}'])
async def test_an_error_message_does_not_repeat_a_long_name(client: httpx.AsyncClient, routing: str):
    body = f'{{"messages": [{{"role": "user", "content": "a"}}], "routing": {routing % ("x" * 9000)}}}'
    response = await client.post(CHAT, content=body)
    assert response.status_code == 400
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"model": "generalist/roman"}, "model"), ({"routing": {"force": "roman"}}, "routing.force")],
)
async def test_route_refuses_a_request_that_names_its_model(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
):
    assert_error(await client.post(ROUTE, json=chat(**fields)), 400, param, None)


async def test_unknown_models_paths_and_methods_get_the_error_envelope(client: httpx.AsyncClient):
    unknown = await client.post(CHAT, json=chat(model="gpt-4o"))
    assert_error(unknown, 404, "model", "model_not_found")
    assert_error(await client.get("/v1/models/gpt-4o"), 404, "model", "model_not_found")
    for path in ("/", "/docs", "/redoc", "/v1/models/"):
        assert (await client.get(path)).status_code == 404
    assert_error(await client.post("/v1/chat"), 404, None, None)
    wrong_method = await client.get(CHAT)
    assert_error(wrong_method, 405, None, None)
    assert wrong_method.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "type_", "code", "retry_after"),
    [
        (ModelUnavailable("gone"), 503, "server_error", "model_unavailable", "1"),
        (ModelStalled("late"), 504, "server_error", "model_stalled", "1"),
        (ModelOverloaded("full"), 429, "rate_limit_error", "overloaded", "1"),
        (ModelFailed("broken"), 500, "server_error", "model_failed", None),
        (DeadlineExceeded("over"), 504, "server_error", "deadline_exceeded", None),
        (
            ContextLengthExceeded("too long", "messages"),
            400,
            "invalid_request_error",
            "context_length_exceeded",
            None,
        ),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("n", [1, 2])
async def test_an_error_before_the_first_byte_is_a_status(
    client: httpx.AsyncClient,
    gateway: FakeGateway,
    error: RouterError,
    status: int,
    type_: str,
    code: str,
    retry_after: str | None,
    stream: bool,
    n: int,
):
    fakes = models(meta=fails_with(error))
    gateway.models = fakes
    response = await client.post(CHAT, json=chat(stream=stream, n=n))
    assert_error(response, status, error.param, code)
    assert response.json()["error"]["type"] == type_
    assert response.headers.get("retry-after") == retry_after
    assert fakes["meta"].num_open == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_an_unexpected_exception_is_logged_and_hidden_from_the_client(
    client: httpx.AsyncClient, gateway: FakeGateway, caplog: pytest.LogCaptureFixture, stream: bool
):
    gateway.models = models(meta=fails_with(RuntimeError("secret path /etc")))
    with caplog.at_level(logging.ERROR, "router.api.middleware"):
        response = await client.post(CHAT, json=chat(stream=stream), headers={"x-request-id": "r-1"})
    assert_error(response, 500, None, None)
    assert "secret" not in response.text
    [record] = caplog.records
    assert "r-1" in record.message
    assert record.exc_info is not None
    assert HELLO[0]["content"] not in caplog.text


def test_a_body_over_the_size_limit_is_refused_with_and_without_content_length(gateway: FakeGateway):
    large = json.dumps(chat(user="x" * 20_000)).encode()
    with served(build_app(gateway)) as url, httpx.Client(base_url=url) as http:
        assert_error(http.post(CHAT, content=large), 413, None, "body_too_large")
        chunked = http.post(CHAT, content=iter([large[:5000], large[5000:]]))
        assert "content-length" not in chunked.request.headers
        assert_error(chunked, 413, None, "body_too_large")
        gateway.max_body_bytes = len(large)
        assert http.post(CHAT, content=large).status_code == 200


def assert_error(response: httpx.Response, status: int, param: str | None, code: str | None) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["param"], error["code"]) == (param, code), error
    assert error["message"]
