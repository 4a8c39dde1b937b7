"""The OpenAI SDK on a real cluster."""

from __future__ import annotations

from typing import Any

import openai
import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


def test_the_openai_sdk_sees_one_model(served):
    names = ["generalist", "generalist/meta", *(f"generalist/{name}" for name in served.config.experts)]
    messages: list[Any] = [{"role": "user", "content": "hi! ten 700?"}]
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == names
        answer = client.chat.completions.create(model="generalist", messages=messages, temperature=0, n=2)
        assert answer.model == "generalist"
        assert [choice.finish_reason for choice in answer.choices] == ["stop", "stop"]
        assert answer.choices[0].message.content == answer.choices[1].message.content
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.models.retrieve("generalist/unknown")
        too_long: list[Any] = [{"role": "user", "content": "word " * 2000}]
        with pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="generalist", messages=too_long)
    assert caught.value.code == "context_length_exceeded"


async def test_the_async_openai_sdk_streams(served):
    async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        stream = await client.chat.completions.create(
            model="generalist",
            messages=[{"role": "user", "content": "ten 700?"}],
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    assert len({chunk.id for chunk in chunks}) == 1
    assert sum(bool(c.choices and c.choices[0].finish_reason) for c in chunks) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0
