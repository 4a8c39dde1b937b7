"""Requests drawn from the OpenAPI document: the router answers as it says, and refuses what it forbids."""

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from benchmarks.faults.fuzz import fuzz
from benchmarks.faults.wild import CHAT, MAX_TOKENS, ROUTE, TEXT, wild_requests
from router.errors import InvalidRequest
from router.http import build_app
from router.model import Ask
from router.openai import AnswerRequest, ChatRequest, CompletionRequest, parse
from router.openapi import document
from tests.fakes import FakeGateway, Item, models, served, writes
from tests.test_http_fuzz import Surface, assert_refused, meta

API = schemathesis.openapi.from_dict(document())
BEYOND_SCHEMA = (
    "valid integer|must be a non-empty text|takes effect only|differ|best_of|expert|token ids|at most"
)
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
    fakes = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))
    with asyncio.Runner() as runner:
        yield Surface(runner, FakeGateway(fakes, max_body_bytes=8_000_000), list(fakes.values()))


def cases(mode: GenerationMode, *paths: str) -> st.SearchStrategy[schemathesis.Case]:
    of_path = {path: next(iter(API[path].values())).as_strategy(generation_mode=mode) for path in paths}
    return st.sampled_from(paths).flatmap(of_path.__getitem__)


def sent(surface: Surface, case: schemathesis.Case) -> httpx.Response:
    request = case.as_transport_kwargs(base_url="http://router")
    content = request.get("data") or (json.dumps(request["json"]) if "json" in request else b"")
    return surface.send(request["method"], request["url"], headers=request["headers"], content=content)


@EXAMPLES
@given(case=cases(GenerationMode.POSITIVE, *API))
def test_what_the_document_allows_is_answered_as_it_says(surface: Surface, case: schemathesis.Case):
    response = sent(surface, case)
    case.validate_response(response, excluded_checks=[positive_data_acceptance])
    if response.status_code == 400:
        # JSON Schema takes 1.0 for an integer, and cannot say what follows from two fields together.
        assert re.search(BEYOND_SCHEMA, response.json()["error"]["message"])


@EXAMPLES
@given(case=cases(GenerationMode.NEGATIVE, CHAT, TEXT, ROUTE))
def test_what_the_document_forbids_is_refused_as_it_says(surface: Surface, case: schemathesis.Case):
    response = sent(surface, case)
    case.validate_response(response)
    assert_refused(response, 400)


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
