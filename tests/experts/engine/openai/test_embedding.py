"""Embedding models behind a URL, against a server that this project did not write, and against a router."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from experts.engine.chunk import EngineChunk
from experts.engine.config import OpenAIConfig
from experts.engine.openai.embedding import OpenAIEmbeddingEngine
from experts.engine.request import EngineRequest
from experts.engine.tasks import Embed, Task, Tokenize
from experts.errors import (
    ContextLengthExceeded,
    ExpertsError,
    InvalidCall,
    RemoteBusy,
    RemoteMisconfigured,
    RemoteUnavailable,
)
from router.dialects.app import build_app
from router.table import ModelEntry
from tests.fakes.models import VECTOR, FakeGateway, models, served, writes
from tests.fakes.openai_server import OpenAIServer, serving
from tests.router.api.test_http_keys import change

EMBED = Embed()
INPUTS = ("iron and gold", "law", (5, 6, 7))


@asynccontextmanager
async def engine_at(url: str, **settings: Any) -> AsyncIterator[OpenAIEmbeddingEngine]:
    fields = {"url": url, "model": "vectors-1", "retries": 0, **settings}
    engine = OpenAIEmbeddingEngine("far", OpenAIConfig(**fields))
    try:
        yield engine
    finally:
        await engine.close()


async def embedded(
    url: str, inputs: tuple[Any, ...] | None = INPUTS, task: Task | None = EMBED, **settings: Any
) -> EngineChunk:
    async with engine_at(url, **settings) as engine:
        (chunk,) = [chunk async for chunk in engine.generate(EngineRequest("r", inputs=inputs, task=task))]
        return chunk


def numbers(vector: bytes) -> tuple[float, ...]:
    return struct.unpack(f"<{len(vector) // 4}f", vector)


@pytest.mark.parametrize("knows_base64", [True, False])
async def test_vectors_come_in_the_order_of_the_inputs_with_the_tokens_that_the_server_counts(
    knows_base64: bool,
):
    server = OpenAIServer(knows_base64=knows_base64)
    with serving(server) as url:
        chunk = await embedded(url, task=Embed(2))
    given: list[str | list[int]] = ["iron and gold", "law", [5, 6, 7]]
    assert [*map(numbers, chunk.vectors)] == [*map(server.embedding, given)]
    assert chunk.num_prompt_tokens == 7
    (body,) = server.bodies
    assert body == {"model": "vectors-1", "input": given, "dimensions": 2, "encoding_format": "base64"}


async def test_a_server_that_counts_no_tokens_is_used_too():
    with serving(OpenAIServer(reports_usage=False)) as url:
        assert (await embedded(url)).num_prompt_tokens is None


async def test_a_router_is_such_a_server():
    gateway = FakeGateway(models(meta=writes("x"), small=writes("x")))
    gateway.ready = ("roman", "morse", "small")
    change(gateway, embedders={"small": ModelEntry(app="small", on_unavailable="wait")})
    with served(build_app(gateway)) as url:
        chunk = await embedded(f"{url}/v1", ("a", "b"), model="generalist/small")
    assert ([*map(numbers, chunk.vectors)], chunk.num_prompt_tokens) == ([VECTOR, VECTOR], 7)


async def test_a_probe_embeds_a_word_and_the_start_asks_nothing():
    server = OpenAIServer()
    with serving(server) as url:
        async with engine_at(url) as engine:
            await engine.check()
        assert server.bodies == []
        chunk = await embedded(url, None, None)
    assert [*map(numbers, chunk.vectors)] == [server.embedding("ping")]


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (400, {"error": {"message": "no such size", "param": "dimensions"}}, InvalidCall),
        (400, {"error": "`inputs` must have less than 512 tokens"}, ContextLengthExceeded),
        (401, {}, RemoteMisconfigured),
        (404, {}, RemoteMisconfigured),
        (429, {}, RemoteBusy),
        (503, {}, RemoteUnavailable),
        (200, {"data": []}, RemoteMisconfigured),
        (200, {"data": "x"}, RemoteMisconfigured),
        (200, {"data": [{"embedding": [1, 2]}, {"embedding": [1, 2]}]}, RemoteMisconfigured),
        (200, {"data": [{"index": "0", "embedding": [1, 2]}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 1, "embedding": [1, 2]}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 0, "embedding": []}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 0, "embedding": [1, "x"]}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 0, "embedding": "AAA="}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 0, "embedding": "not base64"}]}, RemoteMisconfigured),
        (200, {"data": [{"index": 0, "embedding": [1e300]}]}, RemoteMisconfigured),
    ],
)
async def test_what_the_server_refuses_or_gets_wrong_is_an_error(
    status: int, body: dict[str, Any], error: type[ExpertsError]
):
    with serving(OpenAIServer(failures=[(status, body)])) as url, pytest.raises(error) as raised:
        await embedded(url, ("iron",))
    if isinstance(raised.value, InvalidCall) and not isinstance(raised.value, ContextLengthExceeded):
        assert raised.value.param == "dimensions"


async def test_no_other_task_is_done():
    with serving(OpenAIServer()) as url, pytest.raises(InvalidCall, match="far only has embeddings"):
        await embedded(url, task=Tokenize())
