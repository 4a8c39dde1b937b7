"""Random requests to /v1/responses: each gets an answer in the grammar, or a 4xx, never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.chaos.fuzzing.mutations import HUGE, MUTATIONS
from router.api.sse import to_json
from router.dialects.responses.fields import REFUSED
from router.dialects.responses.request import ResponsesRequest
from tests.fakes.models import FakeGateway, hands_over, models, writes
from tests.router.api.test_http_fuzz import JSON, ROUTING, Surface, assert_refused
from tests.router.dialects.responses.event_grammar import Reader, decoded

PATH = "/v1/responses"
KINDS = ["input_text", "output_text", "text", "refusal", "reasoning_text", "summary_text", "input_image"]
PART = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS), "text": st.text(max_size=4)}, optional={"refusal": st.text(max_size=4)}
)
CONTENT = st.text(max_size=4) | st.lists(PART, max_size=2)
NAME = st.sampled_from(["f", "g", "auto", ""])
ITEM = st.one_of(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]), "content": CONTENT},
        optional={"type": st.just("message"), "id": st.text(max_size=3)},
    ),
    st.fixed_dictionaries(
        {"type": st.just("function_call"), "call_id": st.text(max_size=3), "name": NAME},
        optional={"arguments": st.text(max_size=4), "namespace": NAME},
    ),
    st.fixed_dictionaries({"type": st.just("function_call_output"), "call_id": NAME, "output": CONTENT}),
    st.fixed_dictionaries(
        {"type": st.just("reasoning"), "summary": CONTENT},
        optional={"content": CONTENT, "encrypted_content": st.text() | st.just("thoughts:AAA")},
    ),
    JSON,
)
FUNCTION = st.fixed_dictionaries({"type": st.sampled_from(["function", "custom"]), "name": NAME})
TOOL = FUNCTION | st.fixed_dictionaries(
    {"type": st.just("namespace"), "name": NAME, "tools": st.lists(FUNCTION, max_size=2)}
)
CHOICE = st.one_of(
    st.sampled_from(["none", "auto", "required"]),
    FUNCTION,
    st.fixed_dictionaries(
        {
            "type": st.just("allowed_tools"),
            "mode": st.sampled_from(["auto", "required", "x"]),
            "tools": st.lists(FUNCTION, max_size=2),
        }
    ),
)
PLAUSIBLE = st.fixed_dictionaries(
    {"input": st.text(max_size=5) | st.lists(ITEM, max_size=5)},
    optional={
        "model": st.sampled_from(["generalist", "generalist/meta", "generalist/roman", "gpt-4o"]),
        "instructions": st.text(max_size=4),
        "stream": st.booleans(),
        "tools": st.lists(TOOL, max_size=2),
        "tool_choice": CHOICE,
        "text": st.fixed_dictionaries({}, optional={"format": JSON, "verbosity": st.just("medium")}),
        "reasoning": st.fixed_dictionaries({}, optional={"effort": st.just("low"), "summary": JSON}),
        "max_output_tokens": st.integers(0, 20),
        "include": st.lists(st.sampled_from(["message.output_text.logprobs", "reasoning.encrypted_content"])),
        "top_logprobs": st.integers(0, 21),
        "truncation": st.sampled_from(["auto", "disabled"]),
        "routing": ROUTING,
    },
)
KNOWN = sorted({*(field.name for field in REFUSED), *ResponsesRequest.model_fields})
RANDOM_FIELD = st.dictionaries(st.sampled_from(KNOWN) | st.text(max_size=5), JSON, max_size=1)
BODY = st.builds(lambda plausible, random: {**plausible, **random}, PLAUSIBLE, RANDOM_FIELD)


@pytest.fixture(scope="module")
def surface() -> Iterator[Surface]:
    fakes = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"), morse=writes("-"))
    gateway = FakeGateway(fakes, max_body_bytes=8_000_000)
    with asyncio.Runner() as runner:
        yield Surface(runner, gateway, list(fakes.values()))


@settings(max_examples=100, deadline=None)
@given(body=BODY)
def test_a_random_request_is_answered_or_refused_by_name(surface: Surface, body: dict[str, Any]):
    response = surface.send("POST", PATH, content=to_json(body))
    if response.status_code != 200:
        assert_refused(response, 400, 404)
        param = response.json()["error"]["param"]
        assert param is None or param.split(".")[0] in body.keys() | {"input"}
    elif body.get("stream"):
        assert Reader().read(decoded(response.text)).response["status"] in ("completed", "incomplete")
    else:
        assert response.json()["status"] in ("completed", "incomplete")


@pytest.mark.parametrize("name", MUTATIONS)
def test_no_mutated_body_breaks_the_server(surface: Surface, name: str):
    plain = json.dumps({"input": [{"role": "user", "content": "é 9?"}], "max_output_tokens": 4}).encode()
    for seed in range(2 if name in HUGE else 15):
        response = surface.send("POST", PATH, content=MUTATIONS[name](plain, Random(seed)))
        if response.status_code != 200:
            assert_refused(response, 400, 404)
