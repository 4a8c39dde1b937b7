"""How much of a prompt was in a cache: who is told, and how each dialect says it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from router.api.keys import digest_of
from router.api_key import ApiKey
from router.dialects.app import build_app
from router.model_port import Finish, ModelChunk, ModelRequest
from tests.fakes.models import FakeGateway, FakeModel

KEY = "key-of-alice-0123456789"
HELLO = [{"role": "user", "content": "Hello"}]
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": HELLO, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "Hello", "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "Hello"},
    "/v1/messages": {"messages": HELLO, "max_tokens": 5},
}
PLAIN = {"prompt_tokens": 40, "completion_tokens": 2, "total_tokens": 42}
TOLD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {**PLAIN, "prompt_tokens_details": {"cached_tokens": 32}},
    "/v1/completions": {**PLAIN, "prompt_tokens_details": {"cached_tokens": 32}},
    "/v1/responses": {
        "input_tokens": 40,
        "input_tokens_details": {"cached_tokens": 32, "cache_write_tokens": 0},
        "output_tokens": 2,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 42,
    },
    "/v1/messages": {
        "input_tokens": 8,
        "output_tokens": 2,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 32,
    },
}
NOT_TOLD: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": PLAIN,
    "/v1/completions": PLAIN,
    "/v1/responses": {
        **TOLD["/v1/responses"],
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
    },
    "/v1/messages": {**TOLD["/v1/messages"], "input_tokens": 40, "cache_read_input_tokens": 0},
}


def meta(ask: ModelRequest) -> Sequence[ModelChunk]:
    if ask.allowed:
        chunk = ModelChunk("Hi ", num_tokens=1, num_prompt_tokens=40, num_cached_tokens=32)
        return [chunk, ModelChunk(finish=Finish.EXPERT, expert="roman")]
    return [
        ModelChunk("X", num_tokens=2, num_prompt_tokens=40, num_cached_tokens=32),
        ModelChunk(finish=Finish.STOP),
    ]


def roman(ask: ModelRequest) -> Sequence[ModelChunk]:
    """Its own prompt and cache do not count in `usage`."""
    return [
        ModelChunk("V", num_tokens=1, num_prompt_tokens=90, num_cached_tokens=16),
        ModelChunk(finish=Finish.STOP),
    ]


def gateway(*, has_keys: bool, separate_caches: bool = False) -> FakeGateway:
    gateway = FakeGateway({"meta": FakeModel(meta), "roman": FakeModel(roman)})
    keys = (ApiKey(name="alice", sha256=digest_of(KEY)),) if has_keys else ()
    changes = {"keys": keys, "separate_caches": separate_caches}
    gateway.table = gateway.table.model_copy(update=changes)
    return gateway


async def post(to: FakeGateway, path: str, **fields: Any) -> httpx.Response:
    headers = {"authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(to)), base_url="http://r") as http:
        response = await http.post(path, json={**REQUESTS[path], **fields}, headers=headers)
    assert response.status_code == 200, response.text
    return response


async def usage(to: FakeGateway, path: str) -> dict[str, Any]:
    """Of a whole answer, which has to be the same as at the end of a streamed one."""
    body = {name: value for name, value in REQUESTS[path].items() if name != "stream_options"}
    found: dict[str, Any] = (await post(to, path, **body, stream_options=None)).json()["usage"]
    streamed = (await post(to, path, stream=True)).text
    lines = [line.removeprefix("data: ") for line in streamed.splitlines() if line.startswith("data: {")]
    events = [event.get("response") or event for event in map(json.loads, lines)]
    assert [event["usage"] for event in events if event.get("usage")][-1] == found
    return found


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize("has_keys", [False, True], ids=["no-keys", "separate-caches"])
async def test_clients_learn_what_was_in_the_cache_if_it_holds_nothing_of_other_keys(
    path: str, has_keys: bool
):
    assert await usage(gateway(has_keys=has_keys, separate_caches=has_keys), path) == TOLD[path]


@pytest.mark.parametrize("path", REQUESTS)
async def test_keys_that_share_caches_do_not_learn_it(path: str):
    assert await usage(gateway(has_keys=True), path) == NOT_TOLD[path]


@pytest.mark.parametrize(("has_keys", "num_read"), [(False, 8), (True, 40)], ids=["told", "not-told"])
async def test_the_first_event_of_a_message_says_it_too(has_keys: bool, num_read: int):
    response = await post(gateway(has_keys=has_keys), "/v1/messages", stream=True)
    begun = json.loads(response.text.split("data: ", 1)[1].split("\n", 1)[0])["message"]["usage"]
    assert (begun["input_tokens"], begun["cache_read_input_tokens"]) == (num_read, 40 - num_read)


@pytest.mark.parametrize("has_keys", [False, True], ids=["told", "not-told"])
async def test_each_event_says_it_if_each_event_has_the_usage(has_keys: bool):
    options = {"include_usage": True, "continuous_usage_stats": True}
    to = gateway(has_keys=has_keys)
    response = await post(to, "/v1/chat/completions", stream=True, stream_options=options)
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if "{" in line]
    details = [json.loads(line)["usage"].get("prompt_tokens_details") for line in lines]
    assert len(details) > 2
    assert details == [None if has_keys else {"cached_tokens": 32}] * len(details)
