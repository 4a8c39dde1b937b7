"""Embeddings over HTTP, for a model that is addressed by its name."""

from __future__ import annotations

import base64
import struct
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI

from router.api.tasks.embedding_fields import HONOURED
from router.api.tasks.embedding_request import EmbeddingsRequest
from router.decisions.log_lines import key_label
from router.decisions.metrics import PROMPT_TOKENS
from router.dialects.app import build_app
from router.errors import InvalidRequest, ModelDied
from router.model_port import ModelRequest
from router.prompt import Prompt
from router.table import ModelEntry
from router.tasks import Embed
from tests.fakes.metrics import CountedMetrics
from tests.fakes.models import VECTOR, FakeGateway, FakeModel, Item, models, performs, writes
from tests.router.api.test_http_keys import ALICE, ALL, BOB, SOME, bearer, change

EMBEDDINGS, NAME = "/v1/embeddings", "generalist/small"


@pytest.fixture
def gateway() -> FakeGateway:
    gateway = FakeGateway(models(meta=writes("x"), roman=writes("x"), small=writes("x")))
    experts = {name: entry for name, entry in gateway.table.experts.items() if name != "small"}
    gateway.ready = ("roman", "morse", "small")
    change(gateway, experts=experts, embedders={"small": ModelEntry(app="small", on_unavailable="wait")})
    return gateway


@pytest.fixture
async def client(gateway: FakeGateway) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        yield client


def asked(gateway: FakeGateway) -> list[ModelRequest]:
    model = gateway.models["small"]
    assert isinstance(model, FakeModel)
    return model.asks


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("Hello", ("Hello",)),
        (["Hello", "you"], ("Hello", "you")),
        ([5, 6], ((5, 6),)),
        ([[5, 6], [7]], ((5, 6), (7,))),
    ],
    ids=["text", "texts", "ids", "lists of ids"],
)
async def test_every_form_of_input_gets_a_vector_for_each(
    client: httpx.AsyncClient, gateway: FakeGateway, given: Any, inputs: tuple[str | tuple[int, ...], ...]
):
    body = {"model": NAME, "input": given, "dimensions": 2, "user": "me"}
    response = await client.post(EMBEDDINGS, json=body)
    data = [{"object": "embedding", "index": i, "embedding": [*VECTOR]} for i in range(len(inputs))]
    usage = {"prompt_tokens": 7, "total_tokens": 7}
    assert response.json() == {"object": "list", "model": NAME, "data": data, "usage": usage}
    assert [(a.prompt, a.task) for a in asked(gateway)] == [(Prompt(inputs=inputs), Embed(2))]


async def test_the_official_sdk_reads_the_vectors_and_base64_holds_their_bytes(client: httpx.AsyncClient):
    # The SDK is typed for a fork of httpx with the same interface.
    sdk = AsyncOpenAI(base_url="http://router/v1", api_key="x", http_client=client)  # type: ignore[arg-type]
    found = await sdk.embeddings.create(model=NAME, input=["a", "b"])
    assert [tuple(each.embedding) for each in found.data] == [VECTOR, VECTOR]
    assert found.usage.total_tokens == 7
    response = await client.post(EMBEDDINGS, json={"model": NAME, "input": "a", "encoding_format": "base64"})
    (each,) = response.json()["data"]
    assert struct.unpack("<2f", base64.b64decode(each["embedding"])) == VECTOR


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": NAME}, "input"),
        ({"model": NAME, "input": ""}, "input"),
        ({"model": NAME, "input": []}, "input"),
        ({"model": NAME, "input": ["a", ""]}, "input.1"),
        ({"model": NAME, "input": ["a", 5]}, "input.1"),
        ({"model": NAME, "input": [5, "a"]}, "input.1"),
        ({"model": NAME, "input": [[5], []]}, "input.1"),
        ({"model": NAME, "input": ["a"] * 2049}, "input"),
        ({"model": NAME, "input": "a", "dimensions": 0}, "dimensions"),
        ({"model": NAME, "input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"model": NAME, "input": "a", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens"),
        ({"model": "generalist/roman", "input": "a"}, "model"),
        ({"model": "generalist", "input": "a"}, "model"),
    ],
)
async def test_what_cannot_be_embedded_is_refused_by_name(
    client: httpx.AsyncClient, fields: dict[str, Any], param: str
):
    response = await client.post(EMBEDDINGS, json=fields)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, param), error


async def test_an_unknown_model_is_not_found_and_an_embedder_writes_no_answers(client: httpx.AsyncClient):
    response = await client.post(EMBEDDINGS, json={"model": "gpt-4o", "input": "a"})
    assert response.status_code == 404
    assert "embedding models: generalist/small" in response.json()["error"]["message"]
    body = {"model": NAME, "messages": [{"role": "user", "content": "Hello"}]}
    response = await client.post("/v1/chat/completions", json=body)
    assert response.status_code == 400
    assert "send it to /v1/embeddings" in response.json()["error"]["message"]


async def test_an_embedder_is_listed_by_name_and_alias(client: httpx.AsyncClient, gateway: FakeGateway):
    change(gateway, aliases={"text-embedding-3-small": NAME})
    listed = (await client.get("/v1/models")).json()["data"]
    assert {NAME, "text-embedding-3-small"} <= {each["id"] for each in listed}
    embedders = {each["id"] for each in listed if each["task"] == "embed"}
    assert embedders == {NAME, "text-embedding-3-small"}
    assert {each["task"] for each in listed if each["id"] not in embedders} == {"generate"}
    assert (await client.get(f"/v1/models/{NAME}")).json()["state"] == "ready"
    assert (await client.get("/healthz")).json()["embedders"] == {"small": "ready"}
    response = await client.post(EMBEDDINGS, json={"model": "text-embedding-3-small", "input": "a"})
    assert response.status_code == 200


async def test_a_key_reaches_only_the_embedders_that_it_names(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    change(gateway, keys=(ALICE, BOB))  # Bob may reach roman alone
    body = {"model": NAME, "input": "a"}
    assert (await client.post(EMBEDDINGS, json=body)).status_code == 401
    assert (await client.post(EMBEDDINGS, json=body, headers=bearer(SOME))).status_code == 404
    assert (await client.post(EMBEDDINGS, json=body, headers=bearer(ALL))).status_code == 200


async def test_the_tokens_of_inputs_count_in_the_limits_of_the_key_and_in_metrics(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    gateway.metrics = metrics = CountedMetrics()
    change(gateway, keys=(ALICE.model_copy(update={"tokens_per_day": 10}),))
    body = {"model": NAME, "input": "a"}  # 7 tokens, as the model counts them
    for _ in range(2):
        assert (await client.post(EMBEDDINGS, json=body, headers=bearer(ALL))).status_code == 200
        await gateway.limits.leases.renew_all()
    refused = await client.post(EMBEDDINGS, json=body, headers=bearer(ALL))
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "rate_limit_error")
    change(gateway, keys=(ALICE,))
    (used,) = (await client.get("/keys/usage", headers=bearer(ALL))).json()["data"]
    assert used["tokens_today"] == 14
    assert metrics.series(PROMPT_TOKENS) == {("small", key_label("alice")): 14}


async def test_a_lost_replica_is_replaced_and_a_refusal_is_passed_on(
    client: httpx.AsyncClient, gateway: FakeGateway
):
    failures: list[Item] = [ModelDied("gone", "r1"), InvalidRequest("input[0] has 9 tokens", "input")]
    script = lambda ask: [failures.pop(0)] if failures else performs(ask)  # noqa: E731
    gateway.models = {"meta": FakeModel(writes()), "small": FakeModel(writes(), tasks=script)}
    change(gateway, retries=1)
    response = await client.post(EMBEDDINGS, json={"model": NAME, "input": "a"})
    assert (response.status_code, response.json()["error"]["message"]) == (400, "input[0] has 9 tokens")
    assert (await client.post(EMBEDDINGS, json={"model": NAME, "input": "a"})).status_code == 200


def test_the_listed_fields_are_those_of_the_request():
    assert {field.name for field in HONOURED} == set(EmbeddingsRequest.model_fields)
