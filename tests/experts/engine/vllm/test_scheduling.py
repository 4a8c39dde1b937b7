"""Answers must not depend on how vLLM schedules steps: asynchronously, as on GPUs, and with preemptions."""

import asyncio
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.engine.chunk import FinishReason
from experts.engine.config import VllmConfig
from experts.engine.request import EngineRequest, SamplingOptions
from tests.support.async_vllm import force_async_scheduling
from tests.support.engine_world import ids_of, needs_vllm, question, run, running, token, wins_after
from tests.support.reference_loop import ReferenceModel
from tests.tiny.adapters import save_tiny_adapter
from tests.tiny.models import HIDDEN_SIZE

CONFIG = VllmConfig(
    dtype="float32", max_streams=8, cache_bytes=2**24, max_batch_tokens=64, enforce_eager=True
)

pytestmark = [
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
    needs_vllm,
]


def started(folder: Path, **changes: Any) -> AbstractAsyncContextManager[Any]:
    return running(CONFIG.model_copy(update=changes), folder)


async def test_a_hand_over_is_told_although_the_next_step_has_begun(folder, monkeypatch):
    """Regression: an expert that wins after the end id as well overwrote its hand-over, and the answer ended
    empty. vLLM begins that step before it knows that the row has ended."""
    force_async_scheduling(monkeypatch)
    reference = ReferenceModel(folder)
    always = token(reference, "chem", torch.zeros(HIDDEN_SIZE), bias=1e4)
    async with started(folder) as engine:
        assert engine._llm.vllm_config.scheduler_config.async_scheduling
        await engine.install(1, [always])
        answers = [await run(engine, f"question {i}", allowed=("chem",)) for i in range(5)]
        answers += await asyncio.gather(*(run(engine, f"question {i}", allowed=("chem",)) for i in range(20)))
        assert {(chunks[-1].finish, chunks[-1].expert) for chunks in answers} == {
            (FinishReason.EXPERT, "chem")
        }

        await engine.install(2, [token(reference, "chem", wins_after(reference, "hello", 5))])
        chunks = await run(engine, allowed=("chem",))
        assert chunks[-1].expert == "chem"
        assert ids_of(chunks) == reference.write(question("hello"), "", 5)[0]
        plain = await asyncio.gather(*(run(engine, f"question {i}") for i in range(8)))
        expected = [reference.write(question(f"question {i}"), "", 12)[0] for i in range(8)]
        assert [ids_of(chunks) for chunks in plain] == expected


async def test_preempted_answers_are_those_of_an_idle_engine(folder, tmp_path, monkeypatch):
    """With a cache too small for all requests; greedy, seeded and under rules, with hand-overs, also in place
    and to an adapter that a prompt begins without."""
    force_async_scheduling(monkeypatch)
    save_tiny_adapter(folder, tmp_path, seed=1)
    vector = torch.randn(HIDDEN_SIZE, generator=torch.Generator().manual_seed(3))
    expert = token(ReferenceModel(folder), "chem", vector, bias=-4.5)
    async with started(folder, max_adapters=1) as idle:
        await idle.load_adapter("chem", str(tmp_path), "approximate")
        await idle.install(1, [expert])
        expected = await asyncio.gather(*(answer(idle, i) for i in range(20)))
    async with started(folder, cache_bytes=400_000, max_streams=20, max_adapters=1) as engine:
        await engine.load_adapter("chem", str(tmp_path), "approximate")
        await engine.install(1, [expert])
        preemptions = count_preemptions(monkeypatch)
        assert await asyncio.gather(*(answer(engine, i) for i in range(20))) == expected
    assert sum(preemptions)
    assert {expert for _, _, expert in expected} == {"chem", None}
    assert any(finish is FinishReason.LENGTH for _, finish, expert in expected if expert)


async def answer(engine: Any, number: int) -> tuple[list[int], Any, str | None]:
    """An answer of up to 100 tokens; every second one is sampled, and every fourth one has penalties. From
    number 8 on, every second hand-over is in place, and the last four begin with the adapter."""
    request = EngineRequest(
        f"r{number}",
        messages=question(f"question {number} " + "more words " * (number % 4)),
        max_tokens=100,
        temperature=float(number % 2),
        seed=number,
        allowed=("chem",) if number < 16 else (),
        in_place={"chem": "chem"} if number in range(8, 16) and number // 2 % 2 else {},
        adapter="chem" if number >= 16 else None,
        sampling=SamplingOptions(frequency_penalty=0.5, min_tokens=90) if number % 4 == 3 else None,
    )
    chunks = [chunk async for chunk in engine.generate(request)]
    return ids_of(chunks), chunks[-1].finish, next((each.expert for each in chunks if each.expert), None)


def count_preemptions(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number in each step from now on."""
    from experts.engine.vllm import stats

    counts: list[int] = []
    record = stats._Logger.record

    def counted(self: Any, scheduler_stats: Any, iteration_stats: Any, *args: Any, **options: Any) -> None:
        counts.append(iteration_stats.num_preempted_reqs if iteration_stats else 0)
        record(self, scheduler_stats, iteration_stats, *args, **options)

    monkeypatch.setattr(stats._Logger, "record", counted)
    return counts
