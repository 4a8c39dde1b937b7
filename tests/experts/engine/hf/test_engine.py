"""Tests of the transformers engine alone; test_engine_conformance.py has those of every engine."""

from contextlib import aclosing

import pytest
import torch

from experts.checkpoint import Checkpoint
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest
from experts.engine.sampling.routing import RequestState
from experts.errors import EngineDead, ModelLoadError
from experts.token import ExpertToken
from tests.support.engine_world import question, run
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

CONFIG = TransformersConfig(dtype="float32", max_streams=8, num_threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, byte_level())
    return folder


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
async def test_a_meta_takes_tokens_of_its_files_in_whatever_dtype_it_computes(folder, dtype):
    """Regression: in float16 it refused them as another meta's."""
    fingerprint, dim = Checkpoint(str(folder)).head()
    token = ExpertToken("law", torch.zeros(dim), 1e4, "meta", fingerprint)
    engine = TransformersEngine(str(folder), CONFIG.model_copy(update={"dtype": dtype}))
    try:
        await engine.install(1, [token])
        assert (await run(engine, allowed=("law",)))[-1].expert == "law"
    finally:
        await engine.close()


async def test_time_without_requests_does_not_count_as_a_stall(folder):
    """Regression: the idle time before a request was counted."""
    engine = TransformersEngine(str(folder), CONFIG.model_copy(update={"stall_s": 1e-9}))
    try:
        await run(engine)
        await engine.check()
        silence_s = engine._logits_processor.silence_s
        engine._logits_processor.add("r", RequestState(EngineRequest("r"), seed=0))
        assert (silence_s, engine._logits_processor.silence_s < 0.5) == (0.0, True)
        with pytest.raises(EngineDead, match="no token"):
            await engine.check()
    finally:
        await engine.close()


async def test_cancelled_requests_leave_nothing_behind(folder):
    """The library keeps a request in five places."""
    engine = TransformersEngine(str(folder), CONFIG)
    try:
        for i in range(40):
            async with aclosing(
                engine.generate(EngineRequest(f"r{i}", messages=question(f"{i}?")))
            ) as chunks:
                await anext(chunks)
        await run(engine)  # the loop handles all cancellations before the next request
        processor = engine._manager.batch_processor
        assert processor is not None
        scheduler, cache = processor.scheduler, processor.cache
        assert not engine._logits_processor._states
        assert not engine._manager.output_router.result_handlers
        assert not {**scheduler.active_requests, **scheduler.waiting_requests}
        assert not [*scheduler.waiting_requests_order, *scheduler._requests_to_cancel]
        assert not any(allocator.block_table for allocator in cache.cache_allocators.values())
    finally:
        await engine.close()


def test_a_model_that_cannot_be_loaded_gives_a_one_line_error(tmp_path, folder):
    for source, config, message in (
        (tmp_path / "nothing", CONFIG, "no such model folder on node"),
        (tmp_path, CONFIG, "cannot be loaded"),
        (folder, CONFIG.model_copy(update={"max_model_len": 512}), "takes 256 tokens"),
    ):
        with pytest.raises(ModelLoadError, match=message) as caught:
            TransformersEngine(str(source), config)
        assert "\n" not in str(caught.value)
