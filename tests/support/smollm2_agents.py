"""A real language model behind the router's app, and requests in the shapes that coding agents send."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anthropic
import openai
import torch
import uvicorn
from fastapi import FastAPI

from deployments.remote import translate
from deployments.replicas.call_placements import CallPlacement
from experts.engine.base import Engine
from experts.engine.config import ModelSource, TransformersConfig
from experts.engine.factory import make_engine
from experts.errors import ExpertsError
from experts.token import ExpertToken, checkpoint_fingerprint
from router.dialects.app import build_app
from router.dialects.responses.items import seal
from router.model_port import ModelChunk, ModelRequest
from router.table import ModelEntry, RouteTable
from tests.fakes.models import FakeGateway, FakeModel, writes
from tests.router.dialects.messages.test_agents import HEADERS
from tests.router.media.pictures import data_uri, picture
from tests.support.engine_model import PATIENT, Call, EngineModel

CONFIG = TransformersConfig(
    dtype="float32", max_model_len=4096, max_streams=4, cache_tokens=16_384, num_threads=1
)
TABLE = RouteTable(
    table_version=1,
    name="generalist",
    meta=ModelEntry(app="meta"),
    experts={"chef": ModelEntry(app="chef"), "eye": ModelEntry(app="eye", modalities=("text", "image"))},
    deadlines=PATIENT,
    retries=0,
)
SYSTEM = "You are a coding agent. " + "Read a file before you change it. " * 4
QUESTION = "Which file is longer?"
EPHEMERAL = {"cache_control": {"type": "ephemeral"}}
PATHS = {"type": "object", "properties": {"path": {"type": "string", "enum": ["/a", "/b"]}}}
SCHEMA = {**PATHS, "required": ["path"], "additionalProperties": False}
NAMES = [f"read_{number}" for number in range(30)]
WITH_PATH = ("read_1", "read_29")
MAX_TOKENS = 8
CALL_TOKENS = 64  # a forced call is shorter
ALWAYS = {"routing": {"bias": {"chef": 100.0}}}
PICTURES = [data_uri(picture()), data_uri(picture("JPEG"), "image/jpeg")]


class TranslatingModel(EngineModel):
    """With the errors of an engine as those of the router, as a replica's caller has them.

    `ended` gets the id of a request whenever a call for it has ended or was closed.
    """

    def __init__(
        self, name: str, engine: Engine, calls: defaultdict[str, list[Call]], ended: asyncio.Queue[str]
    ) -> None:
        super().__init__(name, engine, calls)
        self.ended = ended

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        try:
            async with aclosing(super().stream(request)) as chunks:
                async for chunk in chunks:
                    yield chunk
        except ExpertsError as error:
            raise translate("meta", error, CallPlacement()) from error
        finally:
            self.ended.put_nowait(request.request_id)


@dataclass
class World:
    """`calls`: of real models, by the ids of their requests. `ended`: these ids, when a call ends."""

    ended: asyncio.Queue[str]
    eye: FakeModel
    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic
    calls: dict[str, list[Call]] = field(default_factory=dict)

    @property
    def last_call(self) -> Call:
        return [*self.calls.values()][-1][-1]

    async def claude(self, **changes: Any) -> Any:
        """What Claude Code sends, as one message."""
        body = {**claude(), **changes}
        body["extra_body"] = {**claude()["extra_body"], **body["extra_body"]}
        async with self.anthropic.beta.messages.stream(**body) as events:
            return await events.get_final_message()

    async def codex(self, **changes: Any) -> Any:
        """What Codex sends, as one response."""
        stream = await self.openai.responses.create(**{**codex(), **changes})
        *_, last = [event async for event in stream]
        return last.response


def schema_of(name: str) -> dict[str, Any]:
    """Two tools have an argument; the others have none, so that the prompt stays short."""
    return (
        SCHEMA if name in WITH_PATH else {"type": "object", "properties": {}, "additionalProperties": False}
    )


def claude() -> dict[str, Any]:
    tools = [{"name": name, "input_schema": schema_of(name)} for name in NAMES]
    results = [
        {"type": "tool_result", "tool_use_id": f"toolu_{path}", "content": f"{path}\n" * 3, **EPHEMERAL}
        for path in "ab"
    ]
    return {
        "model": "generalist",
        "max_tokens": MAX_TOKENS,
        "extra_body": {"temperature": 0},
        "betas": ["claude-code-20250219", "interleaved-thinking-2025-05-14"],
        "system": [{"type": "text", "text": SYSTEM, **EPHEMERAL}],
        "tools": [*tools[:-1], {**tools[-1], **EPHEMERAL}],
        "thinking": {"type": "enabled", "budget_tokens": 31999},
        "metadata": {"user_id": "user_0_account__session_0"},
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": QUESTION, **EPHEMERAL}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "I need both.", "signature": "EqQBCg"},
                    {"type": "text", "text": "I read them."},
                    *(
                        {"type": "tool_use", "id": f"toolu_{p}", "name": "read_1", "input": {"path": f"/{p}"}}
                        for p in "ab"
                    ),
                ],
            },
            {"role": "user", "content": [*results, {"type": "text", "text": "No task is open."}]},
        ],
    }


def codex() -> dict[str, Any]:
    tools = [{"type": "function", "name": name, "parameters": schema_of(name)} for name in NAMES]
    calls = [
        {
            "type": "function_call",
            "call_id": f"toolu_{p}",
            "name": "read_1",
            "arguments": f'{{"path": "/{p}"}}',
        }
        for p in "ab"
    ]
    results = [
        {"type": "function_call_output", "call_id": f"toolu_{path}", "output": f"{path}\n" * 3}
        for path in "ab"
    ]
    return {
        "model": "generalist",
        "instructions": SYSTEM,
        "max_output_tokens": MAX_TOKENS,
        "temperature": 0,
        "tools": [{**tool, "strict": False} for tool in tools],
        "parallel_tool_calls": True,
        "reasoning": {"effort": "medium", "summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "019a-thread",
        "input": [
            said("user", "input_text", QUESTION),
            {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": seal("I need both.")},
            said("assistant", "output_text", "I read them."),
            *calls,
            *results,
            said("user", "input_text", "No task is open."),
        ],
    }


def said(role: str, kind: str, text: str) -> dict[str, Any]:
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


@asynccontextmanager
async def agents_world(smollm2: Path) -> AsyncIterator[World]:
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    ended: asyncio.Queue[str] = asyncio.Queue()
    engine, eye = make_engine(ModelSource(path=str(smollm2)), CONFIG), FakeModel(writes("Two", " cats."))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(engine.close)
        await engine.install(1, expert_tokens(smollm2))
        real = {name: TranslatingModel(name, engine, calls, ended) for name in ("meta", "chef")}
        gateway = FakeGateway({**real, "eye": eye}, ready=("chef", "eye"), table=TABLE, max_body_bytes=2**20)
        url = await stack.enter_async_context(listening(build_app(gateway)))
        asked = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        agent = anthropic.AsyncAnthropic(
            base_url=url, api_key="none", max_retries=0, default_headers={"x-app": HEADERS["x-app"]}
        )
        yield World(ended, eye, await stack.enter_async_context(asked), agent, calls)
        await agent.close()


def expert_tokens(meta: Path) -> list[ExpertToken]:
    """Small vectors, so that the bias of a request decides."""
    found = checkpoint_fingerprint(meta)
    assert found is not None
    fingerprint, dim = found
    return [
        ExpertToken(name, torch.full((dim,), 1e-4 * number), 0.0, "meta", fingerprint)
        for number, name in enumerate(TABLE.experts, 1)
    ]


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are pytest's."""
        yield


@asynccontextmanager
async def listening(app: FastAPI) -> AsyncIterator[str]:
    """The address of the app, on the loop of its engine."""
    server = _Server(uvicorn.Config(app, log_config=None, ws="none", lifespan="off"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving
