"""Everything that is measured: vLLM alone and behind its server, our engines in this process, our cluster.

Each part imports only the packages that it names, so a machine without Ray or vLLM can run the others.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.overhead.client import Answer, SendQuestion, over_http
from benchmarks.overhead.model import NAME, Model
from experts.checkpoint import Checkpoint
from experts.engine.base import Engine
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig
from experts.engine.factory import make_engine
from experts.engine.request import EngineRequest
from experts.token import ExpertToken

EXPERTS = tuple(f"expert-{i}" for i in range(10))
NEVER = -1e4  # a bias with which no expert wins


@dataclass
class Opened:
    """The senders by name, and what the part tells about its settings."""

    senders: dict[str, SendQuestion]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Part:
    """`packages`: what must be installed, by the names that are imported."""

    packages: tuple[str, ...]
    opened: Callable[[Model, Path], AbstractAsyncContextManager[Opened]]


@asynccontextmanager
async def _bare_vllm(model: Model, folder: Path) -> AsyncIterator[Opened]:
    from benchmarks.overhead.engine_only import engine_only

    with engine_only(model) as engine:
        yield Opened({"vLLM, bare": engine}, _compilation(engine.llm))


@asynccontextmanager
async def _vllm_server(model: Model, folder: Path) -> AsyncIterator[Opened]:
    from benchmarks.overhead.vllm_server import vllm_server

    with vllm_server(model, folder) as url:
        yield Opened({"vLLM's server": over_http(url, NAME)})


@asynccontextmanager
async def _vllm_engine(model: Model, folder: Path) -> AsyncIterator[Opened]:
    async with _engine("ours, vllm", model, model.config) as (engine, senders):
        yield Opened(senders, _compilation(engine._llm))


@asynccontextmanager
async def _transformers_engine(model: Model, folder: Path) -> AsyncIterator[Opened]:
    config = TransformersConfig(
        dtype=model.dtype, max_model_len=model.max_model_len, max_streams=model.max_streams
    )
    async with _engine("ours, transformers", model, config) as (_, senders):
        yield Opened(senders, {"attention": config.attention})


@asynccontextmanager
async def _cluster(model: Model, folder: Path) -> AsyncIterator[Opened]:
    from benchmarks.overhead import ours

    with ours.ours(model, folder) as url:
        yield Opened(
            {
                "ours, over HTTP": over_http(url, f"{ours.NAME}/{ours.EXPERT}"),
                "ours, routed": over_http(url, ours.NAME),
            }
        )


PARTS = {
    "vllm": Part(("vllm",), _bare_vllm),
    "vllm-server": Part(("vllm",), _vllm_server),
    "engine-vllm": Part(("vllm",), _vllm_engine),
    "engine-transformers": Part((), _transformers_engine),
    "cluster": Part(("vllm", "ray"), _cluster),
}


@asynccontextmanager
async def _engine(
    name: str, model: Model, config: EngineConfig
) -> AsyncIterator[tuple[Any, dict[str, SendQuestion]]]:
    engine = make_engine(ModelSource(path=str(model.folder)), config)
    try:
        fingerprint, dim = Checkpoint(str(model.folder)).head()
        tokens = [ExpertToken(expert, torch.randn(dim), NEVER, "model", fingerprint) for expert in EXPERTS]
        await engine.install(1, tokens)
        yield engine, {name: _sender(engine, ()), f"{name}, as a meta": _sender(engine, EXPERTS)}
    finally:
        await engine.close()


def _sender(engine: Engine, allowed: tuple[str, ...]) -> SendQuestion:
    async def send(question: str, num_tokens: int) -> Answer:
        request = EngineRequest(
            question,
            messages=({"role": "user", "content": question},),
            max_tokens=num_tokens,
            temperature=0.0,
            allowed=allowed,
        )
        began_s, first_s, text = time.perf_counter(), 0.0, ""
        async for chunk in engine.generate(request):
            first_s = first_s or time.perf_counter()
            text += chunk.text
        return Answer(began_s, first_s, time.perf_counter(), text)

    return send


def _compilation(llm: Any) -> dict[str, Any]:
    """What vLLM made of the settings."""
    config = llm.vllm_config
    return {
        "compilation": config.compilation_config.mode.name,
        "cuda_graphs": config.compilation_config.cudagraph_mode.name,
        "async_scheduling": config.scheduler_config.async_scheduling,
    }
