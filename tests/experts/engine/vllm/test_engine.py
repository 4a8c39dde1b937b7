"""Tests of the vLLM engine alone; test_engine_conformance.py has those of every engine."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from experts.engine.config import ModelSource, VllmConfig
from experts.engine.factory import make_engine
from experts.engine.request import EngineRequest
from experts.engine.vllm.decision_store import RoutingDecision
from experts.errors import EngineDead, EngineFailed, ModelLoadError
from tests.support.engine_world import needs_vllm, question, run, running
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

CONFIG = VllmConfig(dtype="float32", max_streams=4, cache_bytes=2**24, enforce_eager=True)

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own code warns


def started(folder: Path, **changes: Any) -> AbstractAsyncContextManager[Any]:
    return running(CONFIG.model_copy(update=changes), folder)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_without_vllm_the_error_names_its_extra(folder):
    with pytest.raises(ModelLoadError, match=r"install expert-token-routing\[vllm\]"):
        make_engine(ModelSource(path=str(folder)), CONFIG)


@needs_vllm
async def test_a_stalled_engine_and_one_with_dead_processes_fail_their_check(folder):
    """A replica that fails its check is replaced; one that only hangs would keep its requests."""
    request = EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=200)
    async with started(folder, stall_s=1e-9) as engine:
        await run(engine)
        await engine.check()
        stream = engine.generate(request)
        await anext(stream)
        with pytest.raises(EngineDead, match="no token"):
            await engine.check()
        await stream.aclose()
        await engine.check()

        stream = engine.generate(request)
        await anext(stream)
        for process in psutil.Process().children(recursive=True):
            if "Worker" in process.name() or "EngineCore" in process.name():
                os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineDead, match="a process of vLLM died"):
            async for _ in stream:
                pass
        with pytest.raises(EngineDead, match="a process of vLLM died"):
            await engine.check()
        with pytest.raises(EngineDead):
            await run(engine)
        with pytest.raises(EngineDead):
            await engine.install(1, [])
        assert engine.stats().num_running == 0


@needs_vllm
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_model_len": 512}, "takes 256 tokens"),
        ({"cache_bytes": 2**16}, "vLLM cannot run it: .* the log of this replica"),
    ],
)
def test_a_model_that_cannot_be_loaded_gives_a_one_line_error(folder, changes, message):
    with pytest.raises(ModelLoadError, match=message) as caught:
        make_engine(ModelSource(path=str(folder)), CONFIG.model_copy(update=changes))
    assert "\n" not in str(caught.value)


@needs_vllm
def test_a_model_that_cannot_end_a_turn_is_refused(folder, tmp_path):
    tokenizer = byte_level()
    tokenizer.eos_token = None
    save_tiny_llama(tmp_path / "meta", tokenizer, head_dim=32)
    with pytest.raises(ModelLoadError, match="eos_token_id"):
        make_engine(ModelSource(path=str(tmp_path / "meta")), CONFIG)


@needs_vllm
async def test_a_head_that_the_workers_cannot_open_fails_the_check(folder, monkeypatch):
    """Regression: every request failed, but the check passed, so the replica was never replaced."""
    async with with_fake_vllm(folder, monkeypatch) as (engine, llm):
        llm.worker_error = Exception("Call to collective_rpc method failed: no compute_logits")
        await engine.check()
        for _ in range(2):
            with pytest.raises(EngineDead, match=r"open_expert_head failed in a worker.*no compute_logits"):
                await run(engine)
            with pytest.raises(EngineDead, match="open_expert_head failed"):
                await engine.check()
        assert llm.called == ["open_expert_head"]


@needs_vllm
async def test_a_table_that_the_workers_cannot_install_is_an_engine_failure(folder, monkeypatch):
    async with with_fake_vllm(folder, monkeypatch) as (engine, llm):
        await engine.install(1, [])
        llm.worker_error = Exception("out of memory")
        with pytest.raises(EngineFailed, match=r"meta: install_experts failed in a worker.*: out of memory"):
            await engine.install(2, [])
        await engine.check()


@needs_vllm
async def test_decisions_of_ended_requests_are_removed_while_others_run(folder, monkeypatch):
    """Regression: they stayed until the engine was idle, so under steady load they filled /dev/shm."""
    async with with_fake_vllm(folder, monkeypatch) as (engine, llm):
        request = EngineRequest("r", messages=question("hello"), allowed=("law",))
        running = engine.generate(request)
        await anext(running)
        for _ in range(3):
            cancelled = engine.generate(request)
            await anext(cancelled)
            llm.post_decisions(engine)
            await cancelled.aclose()
            assert llm.posted(engine) == ["0"]
        llm.post_decisions(engine, "3")  # by a worker that had not heard of the cancellation
        assert llm.posted(engine) == ["0", "3"]
        async with aclosing(engine.generate(request)) as last:
            await anext(last)
        assert llm.posted(engine) == ["0"]
        await running.aclose()
        assert llm.posted(engine) == []


class FakeVllm:
    """vLLM's client without its processes: each request gets one token and then hangs."""

    errored = False
    model_config = SimpleNamespace(max_model_len=64)
    observability_config = SimpleNamespace(otlp_traces_endpoint=None)
    worker_error: Exception | None = None

    def __init__(self) -> None:
        self.called: list[str] = []

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> None:
        self.called.append(method)
        if self.worker_error is not None:
            raise self.worker_error

    async def generate(self, *args: Any, **options: Any) -> AsyncIterator[Any]:
        output = SimpleNamespace(finish_reason=None, token_ids=[65])
        yield SimpleNamespace(outputs=[output], metrics=None, num_cached_tokens=None)
        await asyncio.Event().wait()

    async def abort(self, request_ids: list[str]) -> None: ...

    def shutdown(self) -> None: ...

    def post_decisions(self, engine: Any, *ended_keys: str) -> None:
        """For all running requests, as the workers do, and for these."""
        for key in (*engine._requests.keys, *ended_keys):
            engine._decisions.post(key, RoutingDecision(1, "law", 0.5, None))

    def posted(self, engine: Any) -> list[str]:
        return sorted(file.name for file in engine._decisions.folder.iterdir())


@asynccontextmanager
async def with_fake_vllm(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Any, FakeVllm]]:
    llm = FakeVllm()
    monkeypatch.setattr("experts.engine.vllm.engine.start", lambda *args: llm)
    async with started(folder) as engine:
        yield engine, llm
