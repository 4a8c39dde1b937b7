"""Requests as no client should send them, and as some do: valid, nearly valid, invalid, and plain garbage.

Schemathesis draws bodies from the OpenAPI document, some that keep to it and some that do not. It draws some
twenty a second, so a pool of them is drawn once and then spliced: the fields of a request hardly depend on
each other, and the union of two valid bodies is most often valid again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import hypothesis
import schemathesis
from hypothesis import HealthCheck, Phase
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from benchmarks.faults.deform import deformed
from router.openapi import document
from router.stream import to_json

T = TypeVar("T")
Body = dict[str, Any]
Pools = Mapping[tuple[str, GenerationMode], list[Body]]

CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
MAX_POOL = 200  # bodies of one kind for one path
NUMBERS = (int, float)  # and not bool
MAX_TOKENS = 4
SHARES = {"valid": 40, "nearly": 20, "invalid": 15, "garbage": 20, "path": 5}
METHODS = ("GET", "GET", "GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")
PATHS = (
    "/healthz",
    "/stats",
    "/openapi.json",
    "/v1/models",
    "/v1/models/",
    "/v1/models/%00",
    "/v1/models/%ff%fe",
    "/v1/models/%F0%9F%92%A9",
    "/v1/models/..%2f..%2fetc%2fpasswd",
    "/v1/models/%2e%2e/%2e%2e",
    "/v1/models/" + "a" * 8000,
    "/v1/chat/completions/",
    "//v1/models",
    "/v1/models?" + "a=b&" * 500,
    "/%0d%0ax-injected:%20yes",
    "/",
)
HEADERS: dict[str, tuple[str, ...]] = {
    "content-type": (
        "application/json",
        "application/json; charset=utf-16",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "multipart/form-data; boundary=\xff",
        "text/plain",
        ";;;",
        "",
    ),
    "content-encoding": ("gzip", "br", "identity", "nonsense"),
    "accept": ("text/event-stream", "image/png", "*/*;q=nan", ""),
    "x-request-id": ("a" * 128, "a" * 129, "a b", "\xe9\xff", "../../x", '"{}', "%0a", ""),
    "accept-encoding": ("gzip", "identity;q=0", ""),
    "cookie": ("a=b; " * 100 + "c=d", "="),
    "authorization": ("Bearer", "Bearer \xff", "Basic dXNlcjpw", "Bearer " + "a" * 5000, ""),
}


@dataclass(frozen=True)
class WildRequest:
    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def wild_requests(models: Sequence[str], num_requests: int, seed: int) -> Iterator[WildRequest]:
    """The same ones for the same arguments; `models` are the names that `/v1/models` lists.

    Whatever can be answered asks for at most `MAX_TOKENS` tokens, twice.
    """
    random = Random(seed)
    pools = _pools(min(MAX_POOL, 1 + num_requests // 20), seed)
    for kind in random.choices(list(SHARES), list(SHARES.values()), k=num_requests):
        yield _wild_request(kind, pools, models, random)


def drawn(strategy: SearchStrategy[T], num: int, seed: int) -> list[T]:
    """The same draws for the same seed, outside a test."""
    collected: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: T) -> None:
        collected.append(value)

    collect()
    return collected


def _pools(num: int, seed: int) -> Pools:
    api = schemathesis.openapi.from_dict(document())
    return {
        (path, mode): _bodies(api[path]["POST"].as_strategy(generation_mode=mode), num, seed)
        for path in (CHAT, TEXT)
        for mode in GenerationMode
    }


def _bodies(cases: SearchStrategy[Any], num: int, seed: int) -> list[Body]:
    return [{}, *(case.body for case in drawn(cases, num, seed) if isinstance(case.body, dict))]


def _wild_request(kind: str, pools: Pools, models: Sequence[str], random: Random) -> WildRequest:
    headers = _odd_headers(random) if random.random() < 0.3 else {"content-type": "application/json"}
    if kind == "path":
        return WildRequest(kind, random.choice(METHODS), random.choice(PATHS), headers, b"")
    path = random.choice((CHAT, CHAT, TEXT, ROUTE))
    body = to_json(_bounded(_body(kind, pools, CHAT if path == ROUTE else path, models, random), random))
    return WildRequest(kind, "POST", path, headers, deformed(body, random) if kind == "garbage" else body)


def _odd_headers(random: Random) -> dict[str, str]:
    return {name: random.choice(HEADERS[name]) for name in random.sample(list(HEADERS), 2)}


def _body(kind: str, pools: Pools, path: str, models: Sequence[str], random: Random) -> Body:
    valid, invalid = pools[path, GenerationMode.POSITIVE], pools[path, GenerationMode.NEGATIVE]
    if kind == "invalid":
        return _spliced(invalid, random)
    body = _consistent(_spliced(valid, random), models, random)
    if kind == "nearly":
        body |= dict(random.sample(sorted(random.choice(invalid).items())[:50] or [("n", 0)], 1))
    return body


def _spliced(bodies: Sequence[Body], random: Random) -> Body:
    one, other = random.choice(bodies), random.choice(bodies)
    return {**one, **{name: value for name, value in other.items() if random.random() < 0.5}}


def _consistent(body: Body, models: Sequence[str], random: Random) -> Body:
    """What the document cannot say: no two fields contradict each other, and the names are known ones."""
    body = {name: value for name, value in body.items() if name not in ("best_of", "routing")}
    body.setdefault("messages", [{"role": "user", "content": "9?"}])
    body.setdefault("prompt", "9 is")
    body["model"] = random.choice([None, *models])
    if body.get("stream_options") is not None:
        body["stream"] = True
    experts = [name.split("/", 1)[1] for name in models[2:]]
    if body["model"] in (None, *models[:1]) and isinstance(body["prompt"], str) and random.random() < 0.5:
        bias = dict.fromkeys(experts, -3.5)
        options = {"trace": True, "exclude": experts[:1], "bias": bias, "call_bias": 1.5}
        body["routing"] = {name: options[name] for name in random.sample(list(options), 2)}
    return body


def _bounded(body: Body, random: Random) -> Body:
    body = dict(body)
    for name in ("max_tokens", "max_completion_tokens"):
        if type(body.get(name)) in NUMBERS:
            body[name] = min(body[name], MAX_TOKENS)
    if body.get("max_completion_tokens") is None and body.get("max_tokens") is None:
        body["max_tokens"] = MAX_TOKENS
    if all(type(body.get(name)) in NUMBERS for name in ("max_completion_tokens", "max_tokens")):
        del body["max_completion_tokens"]
    if type(body.get("n")) in NUMBERS:
        body["n"] = min(body["n"], 2)
    if isinstance(body.get("prompt"), list):
        body["prompt"] = body["prompt"][:4]
    return body
