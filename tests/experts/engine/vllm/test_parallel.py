"""A model on several devices: every rank decides, and exactly one of them tells the engine."""

from typing import Any

import pytest

from experts.engine.chunk import FinishReason
from experts.engine.config import ModelSource, VllmConfig
from experts.engine.factory import make_engine
from tests.support.engine_world import ids_of, needs_vllm, question, run, token, wins_after
from tests.support.pipeline_vllm import WarmCpuWorker
from tests.support.reference_loop import ReferenceModel

pytestmark = [
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
    needs_vllm,
]


@pytest.mark.parametrize("parallel", ["tensor_parallel", "pipeline_parallel"])
async def test_a_split_model_answers_and_hands_over_like_a_whole_one(folder, monkeypatch, parallel):
    """Regression: with pipeline stages, the rank that was to tell of hand-overs had no logits."""
    if parallel == "pipeline_parallel":
        monkeypatch.setattr("experts.engine.vllm.launch.ExpertWorker", WarmCpuWorker)
    reference = ReferenceModel(folder)
    config = VllmConfig(
        dtype="float32", max_streams=4, cache_bytes=2**24, enforce_eager=True, **{parallel: 2}
    )
    engine: Any = make_engine(ModelSource(path=str(folder)), config)
    try:
        assert engine._llm.vllm_config.parallel_config.world_size == 2
        await engine.install(1, [token(reference, "chem", wins_after(reference, "hello", 3))])
        chunks = await run(engine, allowed=("chem",))
        assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "chem")
        assert ids_of(chunks) == reference.write(question("hello"), "", 3)[0]
        assert ids_of(await run(engine)) == reference.write(question("hello"), "", 12)[0]
        seeded = [ids_of(await run(engine, temperature=1.0, seed=7)) for _ in range(2)]
        assert seeded[0] == seeded[1] != []
    finally:
        await engine.close()
