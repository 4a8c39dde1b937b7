"""Random requests: valid, nearly valid, invalid, and garbage.

Schemathesis generates valid and invalid bodies from the OpenAPI document. It generates only about twenty a
second, so a pool of them is generated once and then combined. The fields of a request hardly depend on each
other, so the union of two valid bodies is usually valid.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, cast

import schemathesis
from hypothesis.strategies import SearchStrategy
from schemathesis import GenerationMode

from benchmarks.chaos.fuzzing.mutations import mutate
from benchmarks.chaos.fuzzing.seeded_examples import draw_examples
from router.api.gateway import Gateway
from router.api.key_limits import KeyLimits
from router.api.sse import to_json
from router.dialects.app import build_app

Body = dict[str, Any]
BodyPools = Mapping[tuple[str, GenerationMode], list[Body]]

CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"
# These are as valid as the document can make them: their fields hardly contradict each other.
OTHERS = ("/v1/responses", "/v1/messages", "/tokenize", "/detokenize")
POSTS = (*(CHAT, CHAT, TEXT, ROUTE) * 3, *OTHERS)  # in these shares
MAX_POOL = 200  # bodies of one kind for one path
NUMBERS = (int, float)  # but not bool
MAX_TOKENS = 4
# Fields that contradict most of the others here, or need some of them. A valid request has one at most.
CONDITIONAL = (
    "routing",
    "best_of",
    "prompt_logprobs",
    "min_tokens",
    "top_logprobs",
    "continue_final_message",
    "add_generation_prompt",
    "chat_template",
    "chat_template_kwargs",
    "logit_bias",
    "stop_token_ids",
    "allowed_token_ids",
    "truncate_prompt_tokens",
    "tools",
    "tool_choice",
    "functions",
    "function_call",
    "response_format",
    "structured_outputs",
    "guided_json",
    "guided_regex",
    "guided_choice",
    "guided_grammar",
    "json_schema",
    "regex",
    "ebnf",
    "grammar",
)
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
class FuzzRequest:
    kind: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


def fuzz_requests(models: Sequence[str], num_requests: int, seed: int) -> Iterator[FuzzRequest]:
    """The same requests for the same arguments. `models`: the names that `/v1/models` lists.

    Requests that can be answered ask for at most `MAX_TOKENS` tokens and two choices.
    """
    random = Random(seed)
    pools = _pools(min(MAX_POOL, 1 + num_requests // 20), seed)
    for kind in random.choices(list(SHARES), list(SHARES.values()), k=num_requests):
        yield _fuzz_request(kind, pools, models, random)


class _NoCluster:
    """All that an app reads of a gateway before the first request."""

    limits = KeyLimits()


def _pools(num: int, seed: int) -> BodyPools:
    api = schemathesis.openapi.from_dict(build_app(cast(Gateway, _NoCluster)).openapi())
    sizes = {CHAT: num, TEXT: num, **dict.fromkeys(OTHERS, 1 + num // 4)}
    return {
        (path, mode): _bodies(api[path]["POST"].as_strategy(generation_mode=mode), size, seed)
        for path, size in sizes.items()
        for mode in GenerationMode
    }


def _bodies(cases: SearchStrategy[Any], num: int, seed: int) -> list[Body]:
    return [{}, *(case.body for case in draw_examples(cases, num, seed) if isinstance(case.body, dict))]


def _fuzz_request(kind: str, pools: BodyPools, models: Sequence[str], random: Random) -> FuzzRequest:
    headers = _odd_headers(random) if random.random() < 0.3 else {"content-type": "application/json"}
    if kind == "path":
        return FuzzRequest(kind, random.choice(METHODS), random.choice(PATHS), headers, b"")
    path = random.choice(POSTS)
    body = to_json(_bounded(_body(kind, pools, CHAT if path == ROUTE else path, models, random), random))
    return FuzzRequest(kind, "POST", path, headers, mutate(body, random) if kind == "garbage" else body)


def _odd_headers(random: Random) -> dict[str, str]:
    return {name: random.choice(HEADERS[name]) for name in random.sample(list(HEADERS), 2)}


def _body(kind: str, pools: BodyPools, path: str, models: Sequence[str], random: Random) -> Body:
    valid, invalid = pools[path, GenerationMode.POSITIVE], pools[path, GenerationMode.NEGATIVE]
    if kind == "invalid":
        return _combined(invalid, random)
    body = _combined(valid, random)
    body = {**body, "model": models[0]} if path in OTHERS else _consistent(body, models, random)
    if kind == "nearly":
        body |= dict(random.sample(sorted(random.choice(invalid).items())[:50] or [("n", 0)], 1))
    return body


def _combined(bodies: Sequence[Body], random: Random) -> Body:
    first, second = random.choice(bodies), random.choice(bodies)
    return {**first, **{name: value for name, value in second.items() if random.random() < 0.5}}


def _consistent(body: Body, models: Sequence[str], random: Random) -> Body:
    """Apply the rules that the document cannot express: no contradicting fields, only known names."""
    kept = random.choice(CONDITIONAL[2:])
    body = {name: value for name, value in body.items() if name not in CONDITIONAL or name == kept}
    texts = [message for message in body.get("messages", ()) if _is_text(message.get("content"))]
    body["messages"] = texts or [{"role": "user", "content": "9?"}]
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


def _is_text(content: Any) -> bool:
    """Whether models that take no pictures can read it."""
    return not isinstance(content, list) or all(part["type"] in ("text", "refusal") for part in content)


def _bounded(body: Body, random: Random) -> Body:
    body = dict(body)
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        if type(body.get(name)) in NUMBERS:
            body[name] = min(body[name], MAX_TOKENS)
    limits = ("max_tokens", "max_output_tokens") if "input" in body else ("max_tokens",)
    if body.get("max_completion_tokens") is None:
        body |= {name: MAX_TOKENS for name in limits if body.get(name) is None}
    if all(type(body.get(name)) in NUMBERS for name in ("max_completion_tokens", "max_tokens")):
        del body["max_completion_tokens"]
    if type(body.get("n")) in NUMBERS:
        body["n"] = min(body["n"], 2)
    if isinstance(body.get("prompt"), list):
        body["prompt"] = body["prompt"][:4]
    return body
