"""Random requests: each gets a message or a 4xx in Anthropic's envelope, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from random import Random
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.chaos.fuzzing.mutations import HUGE, MUTATIONS
from router.api.sse import to_json
from router.dialects.messages.fields import HONOURED, NO_EFFECT, REFUSED
from tests.fakes.models import FakeGateway, models, writes
from tests.router.api.test_http_fuzz import HARMLESS, JSON, ROUTING, Surface, assert_refused, meta
from tests.router.dialects.messages.test_blocks import follow

PATHS = ("/v1/messages", "/v1/messages/count_tokens")
TEXT = st.fixed_dictionaries({"type": st.just("text"), "text": st.text(max_size=8)})
CALL = st.fixed_dictionaries(
    {
        "type": st.just("tool_use"),
        "id": st.sampled_from(["call_roman_1", "call_meta_1", "toolu_1", ""]),
        "name": st.sampled_from(["f", "g"]),
        "input": st.dictionaries(st.text(max_size=4), JSON, max_size=2),
    }
)
RESULT = st.fixed_dictionaries(
    {
        "type": st.just("tool_result"),
        "tool_use_id": st.sampled_from(["call_roman_1", "call_meta_1", "toolu_1"]),
    },
    optional={"content": st.text(max_size=8) | st.lists(TEXT | JSON, max_size=2), "is_error": st.booleans()},
)
THOUGHT = st.fixed_dictionaries({"type": st.just("thinking"), "thinking": st.text(max_size=8)})
BLOCKS = st.lists(TEXT | CALL | RESULT | THOUGHT | JSON, max_size=3)
MESSAGE = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system"]),
        "content": st.text(max_size=8) | st.lists(TEXT, max_size=3) | BLOCKS,
    }
)
TOOL = st.fixed_dictionaries(
    {"name": st.sampled_from(["f", "g", ""]), "input_schema": st.just({"type": "object"})}
)
BODY = st.fixed_dictionaries(
    {"messages": st.lists(MESSAGE, min_size=1, max_size=4), "max_tokens": st.integers(0, 20)},
    optional={
        "model": st.sampled_from(["generalist", "generalist/meta", "generalist/roman", "claude-opus-4-1"]),
        "stream": st.booleans(),
        "system": st.text(max_size=8) | st.lists(TEXT, max_size=2),
        "stop_sequences": st.lists(st.text(max_size=2), max_size=3),
        "tools": st.lists(TOOL | JSON, max_size=2),
        "tool_choice": st.fixed_dictionaries(
            {"type": st.sampled_from(["auto", "any", "tool", "none"])}, optional={"name": st.just("f")}
        ),
        "thinking": st.fixed_dictionaries({"type": st.sampled_from(["enabled", "disabled", "adaptive"])}),
        "routing": ROUTING,
    },
)
KNOWN = sorted({field.name for fields in (HONOURED, REFUSED, NO_EFFECT) for field in fields})
RANDOM_FIELD = st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), JSON, max_size=1)


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    fakes = models(meta=meta, roman=writes("I", "X"), morse=writes("-"))
    gateway = FakeGateway(fakes, max_body_bytes=8_000_000)
    with asyncio.Runner() as runner:
        yield Surface(runner, gateway, list(fakes.values()))


def check(response: httpx.Response) -> None:
    if response.status_code != 200:
        assert_refused(response, 400, 404)
        assert response.json()["request_id"] == response.headers["request-id"]
    elif response.headers["content-type"].startswith("text/event-stream"):
        *events, _ = response.text.split("\n\n")
        follow([json.loads(event.split("\n")[1].removeprefix("data: ")) for event in events])
    else:
        assert response.json().keys() & {"content", "input_tokens"}


@settings(max_examples=200)
@given(path=st.sampled_from(PATHS), body=BODY, field=RANDOM_FIELD)
def test_no_body_breaks_the_server(surface: Surface, path: str, body: dict[str, Any], field: dict[str, Any]):
    check(surface.send("POST", path, content=to_json({**body, **field})))


@pytest.mark.parametrize("name", MUTATIONS)
def test_no_mutated_body_breaks_the_server(surface: Surface, name: str):
    plain = b'{"messages":[{"role":"user","content":"\xc3\xa9 9?"}],"system":"Be brief","max_tokens":4}'
    statuses = set()
    for seed in range(2 if name in HUGE else 20):
        response = surface.send("POST", PATHS[seed % 2], content=MUTATIONS[name](plain, Random(seed)))
        check(response)
        statuses.add(response.status_code)
    assert (400 in statuses) == (name not in HARMLESS)


@settings(max_examples=50)
@given(path=st.text(max_size=20), method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]))
def test_unknown_paths_below_have_the_same_envelope(surface: Surface, path: str, method: str):
    response = surface.send(method, f"/v1/messages/_{quote(path)}")
    assert response.status_code in (404, 405)
    assert response.json().keys() == {"type", "error", "request_id"}
