"""Helpers for tests of models behind a URL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from cluster.polling import until
from experts.engine.chunk import EngineChunk
from experts.engine.config import OpenAIConfig
from experts.engine.openai.engine import OpenAIEngine
from experts.engine.request import EngineRequest

KEY = "sk-canary-0123456789"
MESSAGES = ({"role": "user", "content": "what is the symbol of iron"},)


@asynccontextmanager
async def engine_at(url: str, **settings: Any) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine("chem", OpenAIConfig(**{"url": url, "model": "chem-7b", **settings}))
    try:
        yield engine
    finally:
        await engine.close()


async def run(engine: OpenAIEngine, **fields: Any) -> list[EngineChunk]:
    prompt = {} if {"text", "ids"} & fields.keys() else {"messages": MESSAGES}
    request = EngineRequest("r", **{**prompt, "temperature": 0.0, **fields})
    return [chunk async for chunk in engine.generate(request)]


def text_of(chunks: list[EngineChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def num_tokens(chunks: list[EngineChunk]) -> int:
    return sum(chunk.num_unnamed_tokens for chunk in chunks)


async def gather_into(engine: OpenAIEngine, chunks: list[EngineChunk]) -> None:
    """Append to `chunks`, so that they can be read after a failure."""
    async for chunk in engine.generate(EngineRequest("r", MESSAGES)):
        chunks.append(chunk)


async def wait_until(condition: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(until, condition, 10.0, 0.01)
