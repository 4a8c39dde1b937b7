"""The OpenAPI document describes exactly what the router does."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from fastapi.routing import APIRoute
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from router.api.body import parse
from router.api.middleware import HEALTH_PATHS
from router.api.requests import AnswerRequest, ChatRequest, CompletionRequest
from router.api.sse import to_json
from router.dialects.app import build_app
from router.errors import InvalidRequest, RouterError
from router.load_report import ModelLoad, ReplicaLoad
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import Part, ReasoningPart, TextPart, ToolCallPart
from tests.fakes.models import FakeGateway, Item, distributes, hands_over, models, writes
from tests.router.api.test_http_fuzz import BODY, JSON

DOCUMENT = build_app(FakeGateway({})).openapi()
HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
MESSAGES, COUNT, RESPONSES = "/v1/messages", "/v1/messages/count_tokens", "/v1/responses"
INPUT_TOKENS = "/v1/responses/input_tokens"
TASKS = ("/tokenize", "/detokenize", "/v1/embeddings")
POSTS = (CHAT, TEXT, ROUTE, "/v1/feedback", RESPONSES, INPUT_TOKENS, MESSAGES, COUNT, *TASKS)
KINDS: dict[str, type[AnswerRequest]] = {"ChatRequest": ChatRequest, "CompletionRequest": CompletionRequest}


def validator(name: str, spec: dict[str, Any] = DOCUMENT) -> Draft202012Validator:
    return Draft202012Validator({**spec, "$ref": f"#/components/schemas/{name}"})


def sealed(schema: Any) -> Any:
    """The same schema, but without additional properties."""
    if isinstance(schema, list):
        return [sealed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**closed, **{key: sealed(part) for key, part in schema.items()}}


def test_the_document_is_openapi_3_1():
    schemathesis.openapi.from_dict(DOCUMENT).validate()
    broken = {**DOCUMENT, "paths": {"/v1/models": {"get": {"responses": []}}}}
    with pytest.raises(Exception, match="responses"):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_schema_is_valid_and_every_reference_resolves():
    spec = json.loads(to_json(DOCUMENT))
    for schema in spec["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    references = list(refs(spec))
    assert len(references) > 50
    for reference in references:
        target = spec
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def refs(part: Any) -> Iterator[str]:
    if isinstance(part, list):
        for item in part:
            yield from refs(item)
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for item in part.values():
            yield from refs(item)


def test_the_document_describes_every_route_and_no_other():
    app = build_app(FakeGateway(models()))
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    described = {(path, method) for path, item in DOCUMENT["paths"].items() for method in item}
    assert described == served


def test_a_post_describes_every_error_with_its_status_and_code():
    errors = list(subclasses(RouterError))
    for path in (CHAT, TEXT, ROUTE, RESPONSES, INPUT_TOKENS, MESSAGES, COUNT):
        responses = DOCUMENT["paths"][path]["post"]["responses"]
        assert responses.keys() - {"200"} == {str(error.status) for error in errors}
        for error in errors:
            response = responses[str(error.status)]
            assert response["content"] == envelope(path)
            assert error.code is None or f"`{error.code}`" in response["description"]
            if error.retry_after_s is not None:
                assert "retry-after" in response["headers"]


def test_every_operation_describes_its_errors():
    for path, item in DOCUMENT["paths"].items():
        for operation in item.values():
            statuses = operation["responses"].keys() - {"200"}
            assert {"429", "500", "503"} <= statuses
            assert "422" not in statuses or path in POSTS, "no request gets FastAPI's own 422"
            for status in statuses - ({"503"} if path in HEALTH_PATHS else set()):
                assert operation["responses"][status]["content"] == envelope(path)
    health = DOCUMENT["paths"]["/healthz"]["get"]
    assert health["security"] == []
    assert health["responses"]["503"]["content"] == health["responses"]["200"]["content"]


def envelope(path: str) -> dict[str, Any]:
    name = "MessagesErrorResponse" if path in (MESSAGES, COUNT) else "ErrorResponse"
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def subclasses(error: type[RouterError]) -> Iterator[type[RouterError]]:
    yield error
    for child in error.__subclasses__():
        yield from subclasses(child)


@pytest.fixture
def gateway() -> FakeGateway:
    probe, write = distributes(roman=0.9, morse=0.01), hands_over("roman", 0.9, "It is ")
    load = ModelLoad(1, 2, 3, (ReplicaLoad("a", 1.5, 1, 0, 3, 0.5),))
    return FakeGateway(
        models(meta=lambda ask: (probe if ask.probe else write)(ask), roman=writes("I", "X")),
        loads={"meta": load},
    )


async def ask(gateway: FakeGateway, path: str, body: dict[str, Any] | None) -> httpx.Response:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        return await (client.get(path) if body is None else client.post(path, json=body))


ANSWERS: list[tuple[str, dict[str, Any] | None, str]] = [
    (CHAT, {"messages": HELLO, "n": 2}, "ChatCompletion"),
    (CHAT, {"messages": HELLO, "routing": {"trace": True}}, "ChatCompletion"),
    (TEXT, {"prompt": ["9 is", "8 is"]}, "TextCompletion"),
    (TEXT, {"prompt": "9 is", "routing": {"trace": True}}, "TextCompletion"),
    (RESPONSES, {"input": HELLO}, "ResponseBody"),
    (RESPONSES, {"input": "9?", "routing": {"trace": True}, "max_output_tokens": 1}, "ResponseBody"),
    (RESPONSES, {"input": []}, "ErrorResponse"),
    (INPUT_TOKENS, {"input": "9?"}, "InputTokenCount"),
    (ROUTE, {"messages": HELLO}, "RoutingDistribution"),
    (ROUTE, {"messages": []}, "ErrorResponse"),
    (CHAT, {"messages": HELLO, "model": "gpt-4o"}, "ErrorResponse"),
    (MESSAGES, {"messages": HELLO, "max_tokens": 9}, "WrittenMessage"),
    (MESSAGES, {"messages": HELLO, "max_tokens": 9, "routing": {"trace": True}}, "WrittenMessage"),
    (MESSAGES, {"messages": HELLO}, "MessagesErrorResponse"),
    (COUNT, {"messages": HELLO}, "MessageTokensCount"),
    ("/tokenize", {"prompt": "Hello", "return_token_strs": True}, "TokenizedText"),
    ("/tokenize", {"messages": HELLO}, "TokenizedText"),
    ("/detokenize", {"tokens": [5, 6]}, "DetokenizedText"),
    ("/v1/models", None, "ModelList"),
    ("/v1/models/generalist/roman", None, "ModelCard"),
    ("/v1/models/gpt-4o", None, "ErrorResponse"),
    ("/healthz", None, "HealthResponse"),
    ("/stats", None, "StatsResponse"),
    ("/version", None, "VersionResponse"),
    ("/health", None, "HealthResponse"),
    ("/openapi.json", None, "OpenApiDocument"),
]


@pytest.mark.parametrize(("path", "body", "shape"), ANSWERS)
async def test_a_response_has_the_described_fields_and_no_other(
    gateway: FakeGateway, path: str, body: dict[str, Any] | None, shape: str
):
    response = await ask(gateway, path, body)
    # An OpenAPI document may have any field that OpenAPI allows.
    spec = DOCUMENT if shape == "OpenApiDocument" else sealed(DOCUMENT)
    validator(shape, spec).validate(response.json())


async def test_the_health_of_a_cluster_without_its_meta_is_described(gateway: FakeGateway):
    gateway.meta_ready = False
    response = await ask(gateway, "/healthz", None)
    assert response.status_code == 503
    validator("HealthResponse", sealed(DOCUMENT)).validate(response.json())


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    ("path", "question", "shape"),
    [(CHAT, {"messages": HELLO}, "ChatCompletionChunk"), (TEXT, {"prompt": "9 is"}, "TextCompletionChunk")],
)
async def test_an_event_has_the_described_fields_and_no_other(
    gateway: FakeGateway,
    path: str,
    question: dict[str, Any],
    shape: str,
    trace: bool,
    options: dict[str, Any],
):
    routing = {"routing": {"trace": True}} if trace else {}
    response = await ask(gateway, path, {**question, "stream": True, **options, **routing})
    *chunks, done, _ = response.text.split("\n\n")
    assert len(chunks) >= 2
    assert done == "data: [DONE]"
    for chunk in chunks:
        validator(shape, sealed(DOCUMENT)).validate(json.loads(chunk.removeprefix("data: ")))


@pytest.mark.parametrize("trace", [False, True])
async def test_an_event_of_a_message_has_the_described_fields_and_no_other(gateway: FakeGateway, trace: bool):
    gateway.models = models(meta=hands_over("roman", 0.9, "It is "), roman=thinks_and_calls)
    body = {"messages": HELLO, "max_tokens": 9, "stream": True, "routing": {"trace": trace}}
    response = await ask(gateway, MESSAGES, body)
    *events, _ = response.text.split("\n\n")
    described = validator("MessageEvent", sealed(DOCUMENT))
    for event in events:
        name, data = event.split("\n")
        described.validate(content := json.loads(data.removeprefix("data: ")))
        assert name == f"event: {content['type']}"
    assert len(events) == 16


def thinks_and_calls(ask: ModelRequest) -> list[Item]:
    parts: list[Part] = [
        ReasoningPart("Hm."),
        TextPart("9"),
        ToolCallPart(0, "f"),
        ToolCallPart(0, None, "{}"),
    ]
    return [*(ModelChunk(num_tokens=1, parts=(part,)) for part in parts), ModelChunk(finish=Finish.STOP)]


RANDOM_FIELD = st.tuples(
    st.sampled_from(
        sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "logprobs", "tools"})
    ),
    JSON,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(KINDS)), body=BODY, field=RANDOM_FIELD | st.none())
def test_the_document_allows_every_request_that_the_router_accepts(
    kind: str, body: dict[str, Any], field: tuple[str, Any] | None
):
    if field is not None:
        body = {**body, field[0]: field[1]}
    try:
        parse(KINDS[kind], to_json(body))
    except InvalidRequest:
        return
    VALIDATORS[kind].validate(body)


VALIDATORS = {kind: validator(kind) for kind in KINDS}


@pytest.mark.parametrize("field", ["n", "max_tokens", "top_k", "seed", "best_of"])
def test_a_whole_number_is_an_integer_with_and_without_a_decimal_point(field: str):
    """JSON has only one type of number: in JSON Schema 6.0 is an integer."""
    plain = {"messages": HELLO, "prompt": [7, 0], field: 1}
    spelled = {**plain, "prompt": [7.0, 0.0], field: 1.0}
    for kind, model in KINDS.items():
        assert VALIDATORS[kind].is_valid(spelled)
        # Compared as text, since 1.0 == 1.
        assert repr(parse(model, to_json(spelled))) == repr(parse(model, to_json(plain)))


@pytest.mark.parametrize(
    "fields",
    [
        {"content": 5},
        {"stop": ["a"] * 17},
        {"stop": [None]},
        {"prompt": ""},
        {"prompt": [[], "a"]},
        {"prompt": [1, "a"]},
        {"prompt": [True]},
        {"prompt": [1.5]},
        {"n": 6.5},
        {"seed": True},
        {"max_tokens": "6"},
        {"routing": {"tracing": True}},
        {"routing": {"bias": {"roman": None}}},
        {"logprobs": 0},
        {"top_logprobs": False},
        {"tools": [{}]},
        {"web_search_options": {}},
        {"messages": [{**HELLO[0], "tool_calls": [{}]}]},
    ],
)
def test_the_router_refuses_what_the_document_forbids(fields: dict[str, Any]):
    body = {"messages": [{"role": "user", "content": fields.get("content", "a")}], "prompt": "a", **fields}
    [name] = fields
    forbidden = [kind for kind in KINDS if not VALIDATORS[kind].is_valid(body)]
    assert forbidden
    for kind in forbidden:
        with pytest.raises(InvalidRequest, match=name):
            parse(KINDS[kind], to_json(body))
