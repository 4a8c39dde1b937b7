"""What tests of models behind a URL share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from cluster.session import until
from experts.engine.base import Call, Chunk
from experts.engine.config import OpenAIConfig
from experts.engine.openai import OpenAIEngine

KEY = "sk-canary-0123456789"
ASKED = ({"role": "user", "content": "what is the symbol of iron"},)


@asynccontextmanager
async def engine_at(url: str, **settings: Any) -> AsyncIterator[OpenAIEngine]:
    engine = OpenAIEngine("chem", OpenAIConfig(**{"url": url, "model": "chem-7b", **settings}))
    try:
        yield engine
    finally:
        await engine.close()


async def run(engine: OpenAIEngine, **call: Any) -> list[Chunk]:
    prompt = {} if {"text", "ids"} & call.keys() else {"messages": ASKED}
    return [chunk async for chunk in engine.generate(Call("r", **{**prompt, "temperature": 0.0, **call}))]


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def num_tokens(chunks: list[Chunk]) -> int:
    return sum(chunk.num_unnamed_tokens for chunk in chunks)


async def gather_into(engine: OpenAIEngine, chunks: list[Chunk]) -> None:
    async for chunk in engine.generate(Call("r", ASKED)):
        chunks.append(chunk)


async def waits_until(condition: Callable[[], bool]) -> None:
    assert await asyncio.to_thread(until, condition, 10.0, 0.01)
