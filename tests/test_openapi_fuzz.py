"""Requests drawn from the OpenAPI document: the router answers as it says, and refuses what it forbids."""

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

from benchmarks.faults.fuzz import fuzz
from benchmarks.faults.wild import CHAT, MAX_TOKENS, ROUTE, TEXT, wild_requests
from router.errors import InvalidRequest
from router.http import build_app
from router.keys import digest_of
from router.model import Ask
from router.openai import AnswerRequest, ChatRequest, CompletionRequest, parse
from router.openapi import document
from router.table import ApiKey
from tests.fakes import FakeGateway, Item, Script, distributes, hands_over, models, served, writes
from tests.test_http_fuzz import Surface, assert_refused, meta
from tests.test_http_keys import ALICE, ALL, BOB, SOME, bearer, change

API = schemathesis.openapi.from_dict(document())
BEYOND_SCHEMA = "must be a non-empty text|takes effect only|differ|best_of|expert|token ids|at most"
TOO_OFTEN = "key-of-hasty-0123456789"
HASTY = ApiKey(name="hasty", sha256=digest_of(TOO_OFTEN), requests_per_minute=1)
# Without shrinking: Schemathesis draws slowly, and prints the request as a command that can be repeated.
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
    """Asks for keys; its meta would hand everything over to the expert that Bob's key does not permit."""
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
def test_what_the_document_allows_is_answered_as_it_says(surface: Surface, case: schemathesis.Case):
    response = sent(surface, case)
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
    if response.status_code == 400:
        # JSON Schema cannot say what follows from two fields together.
        assert re.search(BEYOND_SCHEMA, response.json()["error"]["message"])


@EXAMPLES
@given(case=cases(GenerationMode.NEGATIVE, CHAT, TEXT, ROUTE))
def test_what_the_document_forbids_is_refused_as_it_says(surface: Surface, case: schemathesis.Case):
    response = sent(surface, case)
    case.validate_response(response)
    assert_refused(response, 400)


# Who asks, and what they may hear.
WHO: dict[str, tuple[dict[str, str], tuple[int, ...]]] = {
    "alice": (bearer(ALL), (200, 400, 404)),
    "bob": (bearer(SOME), (200, 400, 404)),
    "hasty": (bearer(TOO_OFTEN), (429,)),
    "stranger": (bearer("wrong-key-0123456789"), (401,)),
    "nobody": ({}, (401,)),
}
MODELS = st.sampled_from(["generalist", "generalist/meta", "generalist/roman", "generalist/morse"])


@EXAMPLES
@given(
    case=cases(GenerationMode.POSITIVE, *API) | cases(GenerationMode.NEGATIVE, CHAT, TEXT, ROUTE),
    model=st.none() | MODELS,
)
def test_with_keys_everybody_is_answered_as_the_document_says(
    guarded: Surface, case: schemathesis.Case, model: str | None
):
    name(case, model)
    guarded.send("GET", "/v1/models", headers=WHO["hasty"][0])  # all that this key has for a minute
    for who, (key, statuses) in WHO.items():
        response = sent(guarded, case, key)
        case.validate_response(response, excluded_checks=[positive_data_acceptance, negative_data_rejection])
        if case.path == "/healthz":
            assert response.status_code == 200
            continue
        assert response.status_code in statuses
        if response.status_code == 429:
            assert response.json()["error"]["code"] == "rate_limit_exceeded"
            assert 1 <= int(response.headers["retry-after"]) <= 60
        elif response.status_code != 200:
            assert_refused(response, *statuses)
        assert who != "bob" or model == "generalist/morse" or "morse" not in response.text


def name(case: schemathesis.Case, model: str | None) -> None:
    """Drawn names are those of no model."""
    if model is None:
        return
    if isinstance(case.body, dict):
        case.body["model"] = model
    if "model_id" in case.path_parameters:
        case.path_parameters["model_id"] = model


def test_wild_requests_are_the_same_for_the_same_seed_and_ask_for_little():
    names = ["generalist", "generalist/meta", "generalist/roman"]
    requests = list(wild_requests(names, 80, seed=1))
    assert requests == list(wild_requests(names, 80, seed=1))
    assert {request.kind for request in requests} == {"valid", "nearly", "invalid", "garbage", "path"}
    sane = [request for request in requests if request.kind not in ("garbage", "path")]
    asked = [accepted(CompletionRequest if one.path == TEXT else ChatRequest, one.body) for one in sane]
    assert sum(one is not None for one in asked) > 30
    for one in asked:
        assert one is None or (one.token_limit() in range(1, MAX_TOKENS + 1) and one.n <= 2)


def accepted(kind: type[AnswerRequest], body: bytes) -> AnswerRequest | None:
    try:
        return parse(kind, body)
    except InvalidRequest:
        return None


def test_a_served_router_withstands_wild_requests():
    fakes = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))
    with served(build_app(FakeGateway(fakes, max_body_bytes=1_048_576))) as url:
        report = fuzz(url, 300, seed=1)
    assert report.findings == ()
    assert report.broken() == []
    assert sum(report.by_status.values()) == report.num_requests == 300
    assert report.by_status[200] > 75
    assert report.by_status[400] > 75
    assert [fake.num_open for fake in fakes.values()] == [0, 0, 0]


def test_a_router_that_breaks_is_found_out():
    with served(build_app(FakeGateway(models(meta=broken, roman=broken, morse=broken)))) as url:
        report = fuzz(url, 60, seed=1)
    assert report.num_5xx > 5
    assert "answered 500" in report.broken()[0]
    assert "the server had an internal error" in report.findings[0]


def broken(ask: Ask) -> list[Item]:
    raise RuntimeError("a bug")
