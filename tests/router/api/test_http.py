"""The HTTP API without streaming: what the models get, and what the client gets."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from router.api.generations import UNSTREAMED_MESSAGE_GAP_S
from router.dialects.app import build_app
from router.model_port import ModelRequest
from router.prompt import Message, Prompt
from router.sampling import Sampling
from router.table import META
from tests.fakes.models import (
    FakeGateway,
    FakeModel,
    distributes,
    hands_over,
    models,
    within_budget,
    writes,
)

HELLO = [{"role": "user", "content": "What is 9 in roman numerals?"}]
CHAT, TEXT, ROUTE = "/v1/chat/completions", "/v1/completions", "/v1/route"


@pytest.fixture
def gateway() -> FakeGateway:
    return FakeGateway(
        models(meta=hands_over("roman", 0.9, "It is "), roman=writes("I", "X"), morse=writes("-", "."))
    )


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def chat(**fields: Any) -> dict[str, Any]:
    return {"messages": HELLO, **fields}


def model(gateway: FakeGateway, name: str) -> FakeModel:
    found = gateway.models[name]
    assert isinstance(found, FakeModel)
    return found


def asks(gateway: FakeGateway, name: str) -> list[ModelRequest]:
    return model(gateway, name).asks


async def test_an_answer_with_a_hand_over_looks_like_that_of_one_model(client: httpx.AsyncClient):
    response = await client.post(CHAT, json=chat())
    body = response.json()
    assert response.status_code == 200
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "generalist")
    assert body["system_fingerprint"] == "table-7"
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "It is IX", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert "routing" not in choice
    assert "routing" not in body


async def test_usage_counts_the_prompt_once_and_lists_every_model(client: httpx.AsyncClient):
    body = (await client.post(CHAT, json=chat(n=2))).json()
    counts = {"prompt_tokens": 3, "completion_tokens": 6, "total_tokens": 9}
    assert body["usage"] == {**counts, "prompt_tokens_details": {"cached_tokens": 0}}
    assert body["usage_by_model"] == {
        "meta": {"calls": 2, "prompt_tokens": 6, "completion_tokens": 2},
        "roman": {"calls": 2, "prompt_tokens": 6, "completion_tokens": 4},
    }


async def test_the_trace_attributes_all_of_the_text_to_models(client: httpx.AsyncClient):
    [choice] = (await client.post(CHAT, json=chat(routing={"trace": True}))).json()["choices"]
    spans = choice["routing"]["spans"]
    assert spans == [
        {"model": "meta", "text": "It is ", "num_tokens": 1, "probability": None},
        {"model": "roman", "text": "IX", "num_tokens": 2, "probability": 0.9},
    ]
    assert "".join(span["text"] for span in spans) == choice["message"]["content"]


async def test_the_trace_attributes_all_of_the_time_to_phases(client: httpx.AsyncClient):
    [choice] = (await client.post(CHAT, json=chat(routing={"trace": True}))).json()["choices"]
    timing = choice["routing"]["timing"]
    assert [call["model"] for call in timing["calls"]] == ["meta", "roman"]
    spent_ms = sum(value for call in timing["calls"] for key, value in call.items() if key != "model")
    assert 0 < timing["first_text_ms"] <= timing["total_ms"]
    assert 0 < spent_ms <= timing["total_ms"] + 0.1  # each part is rounded


async def test_choices_are_in_order_and_each_has_its_own_seed_and_id(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    body = (await client.post(CHAT, json=chat(n=3, seed=-1))).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    sent = sorted((ask.request_id, ask.sampling.seed) for ask in asks(gateway, "meta"))
    assert sent == [(f"{body['id']}-0", 2**63 - 1), (f"{body['id']}-1", 0), (f"{body['id']}-2", 1)]


@pytest.mark.parametrize(
    ("fields", "gap_s"), [({}, UNSTREAMED_MESSAGE_GAP_S), ({"stream": True}, 0.0), ({"stop": ["x"]}, 0.0)]
)
async def test_models_coalesce_text_only_without_streaming_and_stop_strings(
    client: httpx.AsyncClient, gateway: FakeGateway, fields: dict[str, Any], gap_s: float
):
    await client.post(CHAT, json=chat(**fields))
    assert [ask.message_gap_s for name in ("meta", "roman") for ask in asks(gateway, name)] == [gap_s] * 2


async def test_the_model_gets_the_conversation_as_plain_text(client: httpx.AsyncClient, gateway: FakeGateway):
    parts = [{"type": "text", "text": "What is"}, {"type": "text", "text": "9?"}]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts, "name": "Ann"},
    ]
    await client.post(CHAT, json={"messages": messages, "user": "u1", "store": False})
    [ask] = asks(gateway, "meta")
    assert ask.prompt == Prompt(
        messages=(Message("system", "Be brief."), Message("user", "What is\n9?", name="Ann"))
    )


async def test_the_model_gets_sampling_parameters_and_limits(client: httpx.AsyncClient, gateway: FakeGateway):
    await client.post(
        CHAT, json=chat(temperature=0, top_p=0.5, top_k=40, seed=11, max_completion_tokens=9, max_tokens=9)
    )
    [ask] = asks(gateway, "meta")
    assert ask.sampling == Sampling(temperature=0.0, top_p=0.5, top_k=40, seed=11)
    assert ask.max_tokens == 9


async def test_nulls_and_no_op_values_change_nothing(client: httpx.AsyncClient, gateway: FakeGateway):
    nulls = dict.fromkeys(
        ("model", "stream", "stop", "n", "temperature", "tools", "seed", "routing", "audio")
    )
    neutral = {
        "response_format": {"type": "text"},
        "tools": [],
        "tool_choice": "auto",
        "logprobs": False,
        "logit_bias": {},
        "presence_penalty": 0.0,
        "frequency_penalty": 0,
        "modalities": ["text"],
    }
    for extra in (nulls, neutral):
        assert (await client.post(CHAT, json=chat(**extra))).status_code == 200
    assert {ask.sampling for ask in asks(gateway, "meta")} == {Sampling()}


@pytest.mark.parametrize("stop", ["X", ["?", "X"]])
async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client: httpx.AsyncClient, stop: Any):
    [choice] = (await client.post(CHAT, json=chat(stop=stop))).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is I", "stop")


async def test_an_answer_cut_by_max_tokens_has_finish_reason_length(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    gateway.models = models(meta=hands_over("roman", 0.9, "It is "), roman=within_budget(writes("I", "X")))
    [choice] = (await client.post(CHAT, json=chat(max_tokens=2))).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("It is I", "length")


async def test_a_request_that_names_an_expert_skips_the_meta(client: httpx.AsyncClient, gateway: FakeGateway):
    body = (await client.post(CHAT, json=chat(model="generalist/morse"))).json()
    assert (body["model"], body["choices"][0]["message"]["content"]) == ("generalist/morse", "-.")
    assert asks(gateway, "meta") == []


async def test_routing_options_change_the_decision(client: httpx.AsyncClient, gateway: FakeGateway):
    for routing, content in (
        ({"force": "morse"}, "-."),
        ({"exclude": ["roman"]}, "It is I do not know."),
        ({"experts": ["morse", "morse"]}, "It is I do not know."),
    ):
        body = (await client.post(CHAT, json=chat(routing=routing))).json()
        assert body["choices"][0]["message"]["content"] == content
    assert asks(gateway, "meta")[-1].allowed == ("morse",)
    await client.post(CHAT, json=chat(routing={"bias": {"roman": 2}, "call_bias": -1.5}))
    assert asks(gateway, "meta")[-1].bias == {"roman": 0.5, "morse": -1.5}


async def test_raw_prompts_are_routed_only_with_a_routing_object(client: httpx.AsyncClient):
    plain = (await client.post(TEXT, json={"prompt": "9 is"})).json()
    assert plain["id"].startswith("cmpl-")
    assert plain["object"] == "text_completion"
    assert plain["choices"][0]["text"] == "It is I do not know."
    routed = (await client.post(TEXT, json={"prompt": "9 is", "routing": {}})).json()
    assert routed["choices"][0]["text"] == "It is IX"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", [Prompt(text="a")]),
        (["a", "b"], [Prompt(text="a"), Prompt(text="b")]),
        ([1, 2], [Prompt(ids=(1, 2))]),
        ([[1], [2, 3]], [Prompt(ids=(1,)), Prompt(ids=(2, 3))]),
    ],
)
async def test_each_prompt_gets_n_choices_in_every_form_of_prompt(
    client: httpx.AsyncClient, gateway: FakeGateway, prompt: Any, prompts: list[Prompt]
):
    body = (await client.post(TEXT, json={"prompt": prompt, "n": 2, "best_of": 2, "seed": 5})).json()
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(prompts)))
    sent = sorted(asks(gateway, "meta"), key=lambda ask: ask.request_id)
    assert [ask.prompt for ask in sent] == [prompt for prompt in prompts for _ in range(2)]
    assert [ask.sampling.seed for ask in sent] == [5, 6] * len(prompts)
    assert body["usage"]["prompt_tokens"] == 3 * len(prompts)
    assert {ask.max_tokens for ask in sent} == {16}


async def test_route_returns_the_distribution_without_generating(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    gateway.models = models(meta=distributes(morse=0.25, roman=0.625))
    assert (await client.post(ROUTE, json=chat())).json() == {
        "object": "routing.distribution",
        "model": "generalist",
        "decision": "roman",
        "experts": [{"name": "roman", "probability": 0.625}, {"name": "morse", "probability": 0.25}],
        "word_probability": 0.125,
        "left_out": [],
        "usage": {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3},
    }
    undecided = (await client.post(ROUTE, json=chat(routing={"exclude": ["roman"]}))).json()
    assert (undecided["decision"], undecided["word_probability"]) == (None, 0.75)
    assert undecided["left_out"] == [{"name": "roman", "reason": "excluded"}]


async def test_a_listed_model_has_its_window_state_and_aliases(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    roman = gateway.table.experts["roman"].model_copy(update={"window": 512})
    aliases = {"gpt-4o": "generalist", "nine": "generalist/roman"}
    experts = {**gateway.table.experts, "roman": roman}
    gateway.table = gateway.table.model_copy(update={"aliases": aliases, "experts": experts})
    gateway.meta_ready = False
    cards = (await client.get("/v1/models")).json()["data"]
    assert {c["id"]: (c["max_model_len"], c["state"], c["modalities"], c["aliases"]) for c in cards} == {
        "generalist": (None, "masked", ["text"], ["gpt-4o"]),
        "generalist/meta": (None, "masked", ["text"], []),
        "generalist/roman": (512, "ready", ["text"], ["nine"]),
        "generalist/morse": (None, "ready", ["text"], []),
        "gpt-4o": (None, "masked", ["text"], ["generalist"]),
        "nine": (512, "ready", ["text"], ["generalist/roman"]),
    }
    assert (await client.get("/v1/models/nine")).json() == cards[-1]


async def test_models_that_are_scaled_to_zero_are_listed(client: httpx.AsyncClient, gateway: FakeGateway):
    gateway.ready = ()
    listed = (await client.get("/v1/models")).json()
    names = ["generalist", "generalist/meta", "generalist/roman", "generalist/morse"]
    assert listed["object"] == "list"
    assert [entry["id"] for entry in listed["data"]] == names
    for entry in listed["data"]:
        assert (await client.get(f"/v1/models/{entry['id']}")).json() == entry


async def test_health_reports_the_state_of_every_expert(client: httpx.AsyncClient, gateway: FakeGateway):
    gateway.ready = ()
    response = await client.get("/healthz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "table_version": 7,
        "experts": {"roman": "masked", "morse": "asleep"},
    }
    gateway.ready, gateway.meta_ready = ("morse", "roman"), False
    response = await client.get("/healthz")
    assert (response.status_code, response.headers["retry-after"]) == (503, "1")
    assert response.json()["experts"] == {"roman": "ready", "morse": "ready"}
    assert response.json()["error"]["code"] == "model_unavailable"


async def test_a_meta_that_has_failed_is_a_503_that_says_so(client: httpx.AsyncClient, gateway: FakeGateway):
    """Regression: clients were told to change their prompts."""
    gateway.failed = (META,)
    chat = {"model": "generalist", "messages": [{"role": "user", "content": "hello"}]}
    for response in (await client.get("/healthz"), await client.post("/v1/chat/completions", json=chat)):
        assert (response.status_code, response.headers["retry-after"]) == (503, "10")
        assert response.json()["error"]["code"] == "model_broken"
        assert "failed" in response.json()["error"]["message"]
    assert (await client.get("/healthz")).json()["status"] == "failed"


@pytest.mark.parametrize(
    ("given_id", "kept"),
    [("a.B_c-9", True), ("x" * 128, True), ("x" * 129, False), ("a b", False), ("a\tb", False), ("", False)],
)
async def test_every_response_has_a_safe_request_id(client: httpx.AsyncClient, given_id: str, kept: bool):
    headers = {"x-request-id": given_id}
    for response in (
        await client.get("/healthz", headers=headers),
        await client.get("/nowhere", headers=headers),
        await client.post(CHAT, json=chat(stream=True), headers=headers),
    ):
        [shown] = response.headers.get_list("x-request-id")
        assert (shown == given_id) is kept
        assert shown


async def test_request_ids_can_be_left_to_the_server_in_front(gateway: FakeGateway):
    transport = httpx.ASGITransport(build_app(gateway, echo_request_id=False))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        assert "x-request-id" not in (await client.get("/healthz", headers={"x-request-id": "a"})).headers


async def test_the_id_of_an_answer_is_independent_of_x_request_id(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    """Otherwise two requests with the same x-request-id would collide in an engine."""
    for _ in range(2):
        await client.post(CHAT, json=chat(), headers={"x-request-id": "same"})
    assert len({ask.request_id for ask in asks(gateway, "meta")}) == 2
