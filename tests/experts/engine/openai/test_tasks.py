"""Tasks of a model behind a URL: its server is asked, if it can be."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experts.engine.chunk import EngineChunk
from experts.engine.request import ChatOptions, EngineRequest
from experts.engine.tasks import Detokenize, Task, Tokenize, TokenizedPrompt
from experts.errors import InvalidCall
from router import prompt
from router.dialects.app import build_app
from tests.fakes.models import FakeGateway, FakeModel, served, writes
from tests.fakes.openai_server import OpenAIServer, serving
from tests.support.remote_engine import engine_at

MESSAGES = ({"role": "user", "content": "Hello"},)
CONVERSATION = (prompt.Message("user", "Hello"),)
TOOLS = ({"type": "function", "function": {"name": "look"}},)


async def result(url: str, request: EngineRequest) -> EngineChunk:
    async with engine_at(url, model="generalist") as engine:
        (chunk,) = [chunk async for chunk in engine.generate(request)]
        return chunk


@pytest.mark.parametrize(
    ("task", "fields", "asked"),
    [
        (
            Tokenize(add_special_tokens=False, with_texts=True),
            EngineRequest("r", text="Hello"),
            prompt.Prompt(text="Hello"),
        ),
        (
            Tokenize(),
            EngineRequest("r", messages=MESSAGES, chat=ChatOptions(tools=TOOLS), written="Hi"),
            prompt.Prompt(CONVERSATION, written="Hi", options=prompt.ChatOptions(tools=TOOLS)),
        ),
        (Detokenize(), EngineRequest("r", ids=(5, 6)), prompt.Prompt(ids=(5, 6))),
    ],
)
async def test_a_server_with_the_endpoints_of_vllm_is_asked(
    task: Task, fields: EngineRequest, asked: prompt.Prompt
):
    """Here it is a router."""
    meta = FakeModel(writes())
    with served(build_app(FakeGateway({"meta": meta}))) as url:
        chunk = await result(f"{url}/v1", replace(fields, task=task))
    assert meta.asks[0].prompt == asked
    if isinstance(task, Detokenize):
        assert chunk.text == "text of (5, 6)"
    else:
        texts = ("He", "llo") if task == Tokenize(add_special_tokens=False, with_texts=True) else None
        assert chunk.tokenized == TokenizedPrompt((5, 6), texts, 512)


@pytest.mark.parametrize("task", [Tokenize(), Detokenize()])
async def test_a_server_without_them_is_refused_with_a_remedy(task: Task):
    remedy = "ask for those of a model that runs in this cluster"
    with serving(OpenAIServer()) as url, pytest.raises(InvalidCall, match=remedy) as refused:
        await result(url, EngineRequest("r", text="x", ids=(1,), task=task))
    assert refused.value.param == "model"
