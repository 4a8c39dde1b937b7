"""The OpenAPI document says what the router does: no more, no less."""

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

from router.errors import InvalidRequest, RouterError
from router.http import build_app
from router.load import ModelLoad, ReplicaLoad
from router.openai import AnswerRequest, ChatRequest, CompletionRequest, parse
from router.openapi import document
from router.stream import to_json
from tests.fakes import FakeGateway, distributes, hands_over, models, writes
from tests.test_http_fuzz import BODY, JSON

HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
KINDS: dict[str, type[AnswerRequest]] = {"ChatRequest": ChatRequest, "CompletionRequest": CompletionRequest}


def validator(name: str, spec: dict[str, Any] | None = None) -> Draft202012Validator:
    return Draft202012Validator({**(spec or document()), "$ref": f"#/components/schemas/{name}"})


def sealed(schema: Any) -> Any:
    """The same schema, but fields that it does not name are refused."""
    if isinstance(schema, list):
        return [sealed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {"additionalProperties": False} if "properties" in schema else {}
    return {**closed, **{key: sealed(part) for key, part in schema.items()}}


def test_the_document_is_openapi_3_1():
    schemathesis.openapi.from_dict(document()).validate()
    broken = {**document(), "paths": {"/v1/models": {"get": {"responses": []}}}}
    with pytest.raises(Exception, match="responses"):
        schemathesis.openapi.from_dict(broken).validate()


def test_every_schema_is_one_and_every_reference_leads_somewhere():
    spec = json.loads(to_json(document()))
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


def test_every_route_is_described_and_no_other():
    app = build_app(FakeGateway(models()))
    served = {
        (route.path.replace(":path", ""), method.lower())
        for route in app.routes
        if isinstance(route, APIRoute)
        for method in route.methods or ()
    }
    described = {(path, method) for path, item in document()["paths"].items() for method in item}
    assert described == served


def test_every_error_is_described_with_its_status_and_code():
    responses = document()["components"]["responses"]
    for error in subclasses(RouterError):
        response = responses[f"Error{error.status}"]
        assert error.code is None or f"`{error.code}`" in response["description"]
        if error.retry_after_s is not None:
            assert "retry-after" in response["headers"]
    for path in (CHAT, TEXT, ROUTE):
        described = document()["paths"][path]["post"]["responses"]
        assert {f"Error{status}" for status in described if status != "200"} == set(responses)


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
    (ROUTE, {"messages": HELLO}, "RoutingDistribution"),
    (ROUTE, {"messages": []}, "ErrorResponse"),
    (CHAT, {"messages": HELLO, "model": "gpt-4o"}, "ErrorResponse"),
    ("/v1/models", None, "ModelList"),
    ("/v1/models/generalist/roman", None, "ModelCard"),
    ("/v1/models/gpt-4o", None, "ErrorResponse"),
    ("/healthz", None, "Health"),
    ("/stats", None, "Stats"),
    ("/openapi.json", None, "Document"),
]


@pytest.mark.parametrize(("path", "body", "shape"), ANSWERS)
async def test_an_answer_has_the_fields_that_are_described_and_no_other(
    gateway: FakeGateway, path: str, body: dict[str, Any] | None, shape: str
):
    response = await ask(gateway, path, body)
    # The document's own schemas name every field; what OpenAPI itself allows is not theirs to say.
    spec = document() if shape == "Document" else sealed(document())
    validator(shape, spec).validate(response.json())


async def test_a_cluster_without_its_meta_is_described_as_well(gateway: FakeGateway):
    gateway.meta_ready = False
    response = await ask(gateway, "/healthz", None)
    assert response.status_code == 503
    validator("Health", sealed(document())).validate(response.json())


@pytest.mark.parametrize("options", [{}, {"stream_options": {"include_usage": True}}])
@pytest.mark.parametrize("trace", [False, True])
@pytest.mark.parametrize(
    ("path", "question", "shape"),
    [(CHAT, {"messages": HELLO}, "ChatChunk"), (TEXT, {"prompt": "9 is"}, "TextChunk")],
)
async def test_an_event_has_the_fields_that_are_described_and_no_other(
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
        validator(shape, sealed(document())).validate(json.loads(chunk.removeprefix("data: ")))


ODD_FIELD = st.tuples(
    st.sampled_from(
        sorted({*ChatRequest.model_fields, *CompletionRequest.model_fields, "logprobs", "tools"})
    ),
    JSON,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(kind=st.sampled_from(sorted(KINDS)), body=BODY, odd=ODD_FIELD | st.none())
def test_what_the_router_accepts_is_described(kind: str, body: dict[str, Any], odd: tuple[str, Any] | None):
    if odd is not None:
        body = {**body, odd[0]: odd[1]}
    try:
        parse(KINDS[kind], to_json(body))
    except InvalidRequest:
        return
    VALIDATORS[kind].validate(body)


VALIDATORS = {kind: validator(kind) for kind in KINDS}


@pytest.mark.parametrize("field", ["n", "max_tokens", "top_k", "seed", "best_of"])
def test_a_whole_number_is_an_integer_however_it_is_spelled(field: str):
    """JSON has one kind of number, and to JSON Schema 6.0 is the integer 6."""
    plain = {"messages": HELLO, "prompt": [7, 0], field: 1}
    spelled = {**plain, "prompt": [7.0, 0.0], field: 1.0}
    for kind, model in KINDS.items():
        assert VALIDATORS[kind].is_valid(spelled)
        # Compared as text, for 1.0 equals 1.
        assert repr(parse(model, to_json(spelled))) == repr(parse(model, to_json(plain)))


@pytest.mark.parametrize(
    "fields",
    [
        {"content": 5},
        {"stop": ["a"] * 5},
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
def test_what_the_document_forbids_is_refused(fields: dict[str, Any]):
    body = {"messages": [{"role": "user", "content": fields.get("content", "a")}], "prompt": "a", **fields}
    [name] = fields
    forbidden = [kind for kind in KINDS if not VALIDATORS[kind].is_valid(body)]
    assert forbidden
    for kind in forbidden:
        with pytest.raises(InvalidRequest, match=name):
            parse(KINDS[kind], to_json(body))
