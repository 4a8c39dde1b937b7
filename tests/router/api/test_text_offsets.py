"""`text_offset` of /v1/completions, whole and streamed."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from router.dialects.app import build_app
from router.model_port import ModelChunk
from router.parts import TokenLogprobs
from tests.fakes.models import STOP, FakeGateway, FakeModel, models, writes

TEXTS = ("Hello", " aX", "b", "c")


def token(text: str) -> ModelChunk:
    logprobs = (TokenLogprobs(text, text.encode(), -0.5, ()),)
    return ModelChunk(text, 1, num_prompt_tokens=3, logprobs=logprobs)


@pytest.mark.parametrize("stop", [None, ["XY"]], ids=["at once", "text held back"])
async def test_offsets_are_those_of_the_text_that_was_sent(stop: list[str] | None):
    meta = FakeModel(lambda _: [*map(token, TEXTS), STOP])
    gateway = FakeGateway({**models(roman=writes("x"), morse=writes("x")), "meta": meta})
    transport = httpx.ASGITransport(build_app(gateway))
    body: dict[str, Any] = {"prompt": "q", "logprobs": 1, "stop": stop}
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        response = await client.post("/v1/completions", json={**body, "stream": True})
    data = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: {")]
    found = [json.loads(each)["choices"][0].get("logprobs") for each in data]
    offsets = [offset for each in found if each for offset in each["text_offset"]]
    assert offsets == [0, 5, 8, 9]
