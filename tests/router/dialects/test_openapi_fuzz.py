"""Requests generated from the OpenAPI document: the router answers or refuses them as described."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance

from benchmarks.chaos.fuzzing.requests import CHAT, MAX_TOKENS, OTHERS, POSTS, ROUTE, TEXT, fuzz_requests
from benchmarks.chaos.fuzzing.sender import send_fuzz_requests
from router.api.body import parse
from router.api.keys import digest_of
from router.api.middleware import HEALTH_PATHS
from router.api.requests import AnswerRequest, ChatRequest, CompletionRequest
from router.api_key import ApiKey
from router.dialects.app import build_app
from router.errors import InvalidRequest
from router.model_port import ModelRequest
from tests.fakes.models import FakeGateway, Item, Script, distributes, hands_over, models, served, writes
from tests.router.api.test_http_fuzz import Surface, assert_refused, meta
from tests.router.api.test_http_keys import ALICE, ALL, BOB, SOME, bearer, change

API = schemathesis.openapi.from_dict(build_app(FakeGateway({})).openapi())
ASKING = (
    CHAT,
    TEXT,
    ROUTE,
    "/v1/responses",
    "/v1/responses/input_tokens",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
    "/v1/embeddings",
)
# JSON Schema cannot express conditions on two fields, or on the text in one.
BEYOND_SCHEMA = (
    "must be a non-empty string|stream_options needs|differ|best_of|expert|token ids|at most|needs"
    "|not valid JSON|cannot be streamed|give the form|min_tokens is above|the request has no"
    "|contradict|cannot be set|not allowed here|not supported|send tools|a message of the role|has to be"
    "|there is no message|send either|an effect only|takes |does not take|only a message of"
)
TOO_OFTEN = "key-of-hasty-0123456789"
HASTY = ApiKey(name="hasty", sha256=digest_of(TOO_OFTEN), requests_per_minute=1)
# No shrinking: Schemathesis is slow, and prints a command that repeats the request.
EXAMPLES = settings(
    max_examples=50,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    with surface_to(meta) as surface:
        yield surface


@pytest.fixture(scope="module")
def guarded() -> Iterator[Surface]:
    """A cluster with keys. Its meta hands over to the expert that Bob's key does not permit."""
    probe, write = distributes(morse=0.9, roman=0.01), hands_over("morse", 0.9, "It is ")
    with surface_to(lambda ask: (probe if ask.probe else write)(ask), ALICE, BOB, HASTY) as surface:
        yield surface


@contextmanager
def surface_to(meta: Script, *keys: ApiKey) -> Iterator[Surface]:
    fakes = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))
    gateway = FakeGateway(fakes, max_body_bytes=8_000_000)
    change(gateway, keys=keys)
    with asyncio.Runner() as runner:
        yield Surface(runner, gateway, list(fakes.values()))


def cases(mode: GenerationMode, *paths: str) -> st.SearchStrategy[schemathesis.Case]:
    of_path = {path: next(iter(API[path].values())).as_strategy(generation_mode=mode) for path in paths}
    return st.sampled_from(paths).flatmap(of_path.__getitem__)


def sent(surface: Surface, case: schemathesis.Case, key: dict[str, str] | None = None) -> httpx.Response:
    request = case.as_transport_kwargs(base_url="http://router")
    content = request.get("data") or (json.dumps(request["json"]) if "json" in request else b"")
    headers = {**request["headers"], **(key or {})}
    return surface.send(request["method"], request["url"], headers=headers, content=content)


@EXAMPLES
@given(case=cases(GenerationMode.POSITIVE, *API))
def test_requests_that_the_document_allows_are_answered_as_described(
    surface: Surface, case: schemathesis.Case
):
    response = sent(surface, case)
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
    if response.status_code == 400:
        assert re.search(BEYOND_SCHEMA, response.json()["error"]["message"])


@EXAMPLES
@given(case=cases(GenerationMode.NEGATIVE, *ASKING))
def test_requests_that_the_document_forbids_are_refused_as_described(
    surface: Surface, case: schemathesis.Case
):
    response = sent(surface, case)
    case.validate_response(response)
    assert_refused(response, 400)


# The keys of clients, and the statuses that they may get.
CLIENTS: dict[str, tuple[dict[str, str], tuple[int, ...]]] = {
    "alice": (bearer(ALL), (200, 400, 404)),
    "bob": (bearer(SOME), (200, 400, 404)),
    "hasty": (bearer(TOO_OFTEN), (429,)),
    "unknown key": (bearer("wrong-key-0123456789"), (401,)),
    "no key": ({}, (401,)),
}
MODELS = st.sampled_from(["generalist", "generalist/meta", "generalist/roman", "generalist/morse"])


@EXAMPLES
@given(
    case=cases(GenerationMode.POSITIVE, *API) | cases(GenerationMode.NEGATIVE, *ASKING),
    model=st.none() | MODELS,
)
def test_with_keys_every_client_is_answered_as_described(
    guarded: Surface, case: schemathesis.Case, model: str | None
):
    name(case, model)
    guarded.send("GET", "/v1/models", headers=CLIENTS["hasty"][0])  # uses up this key's rate for a minute
    for who, (key, statuses) in CLIENTS.items():
        response = sent(guarded, case, key)
        case.validate_response(response, excluded_checks=[positive_data_acceptance, negative_data_rejection])
        if case.path in HEALTH_PATHS:
            assert response.status_code == 200
            continue
        assert response.status_code in statuses
        if response.status_code == 429:
            error = response.json()["error"]
            assert error.get("code", error["type"]) in ("rate_limit_exceeded", "rate_limit_error")
            assert 1 <= int(response.headers["retry-after"]) <= 60
        elif response.status_code != 200:
            assert_refused(response, *statuses)
        assert who != "bob" or model == "generalist/morse" or "morse" not in response.text


def name(case: schemathesis.Case, model: str | None) -> None:
    """Names this model in the request; a generated name is hardly that of a model."""
    if model is None:
        return
    if isinstance(case.body, dict):
        case.body["model"] = model
    if "model_id" in case.path_parameters:
        case.path_parameters["model_id"] = model


def test_fuzz_requests_depend_only_on_the_seed_and_ask_for_few_tokens():
    names = ["generalist", "generalist/meta", "generalist/roman"]
    requests = list(fuzz_requests(names, 100, seed=1))
    assert requests == list(fuzz_requests(names, 100, seed=1))
    assert {request.kind for request in requests} == {"valid", "nearly", "invalid", "garbage", "path"}
    assert {*POSTS} <= {request.path for request in requests}
    bodies = [
        request
        for request in requests
        if request.kind not in ("garbage", "path") and request.path not in OTHERS
    ]
    parsed = [
        accepted(CompletionRequest if request.path == TEXT else ChatRequest, request.body)
        for request in bodies
    ]
    valid = [request for request in parsed if request is not None]
    assert len(valid) > 30
    for request in valid:
        assert request.token_limit() in range(1, MAX_TOKENS + 1)
        assert request.n <= 2


def accepted(kind: type[AnswerRequest], body: bytes) -> AnswerRequest | None:
    try:
        return parse(kind, body)
    except InvalidRequest:
        return None


def test_a_served_router_survives_fuzz_requests():
    fakes = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))
    with served(build_app(FakeGateway(fakes, max_body_bytes=1_048_576))) as url:
        report = send_fuzz_requests(url, 300, seed=1)
    assert report.findings == ()
    assert report.broken() == []
    assert sum(report.by_status.values()) == report.num_requests == 300
    assert report.by_status[200] > 75
    assert report.by_status[400] > 75
    assert [fake.num_open for fake in fakes.values()] == [0, 0, 0]


def test_the_fuzzer_finds_a_broken_router():
    with served(build_app(FakeGateway(models(meta=broken, roman=broken, morse=broken)))) as url:
        report = send_fuzz_requests(url, 60, seed=1)
    assert report.num_5xx > 5
    assert "answered 500" in report.broken()[0]
    assert "internal server error" in report.findings[0]


def broken(ask: ModelRequest) -> list[Item]:
    raise RuntimeError("a bug")
