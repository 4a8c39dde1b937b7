"""What is the transformers engine's own; what every engine promises is in test_engine_conformance.py."""

from contextlib import aclosing

import pytest

from experts.engine.base import Call
from experts.engine.config import TransformersConfig
from experts.engine.routing import Row
from experts.engine.transformers import TransformersEngine
from experts.errors import EngineDead, ModelLoadError
from tests.engine_world import question, run
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import byte_level

CONFIG = TransformersConfig(dtype="float32", max_streams=8, num_threads=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, byte_level())
    return folder


async def test_an_engine_that_idled_for_long_is_well_at_its_next_request(folder):
    """Regression: the silence before a request counted as a stall of it."""
    engine = TransformersEngine(str(folder), CONFIG.model_copy(update={"stall_s": 1e-9}))
    try:
        await run(engine)
        await engine.check()
        silent_s = engine._sampler.silent_s
        engine._sampler.open("r", Row(Call("r"), seed=0))
        assert (silent_s, engine._sampler.silent_s < 0.5) == (0.0, True)
        with pytest.raises(EngineDead, match="no token"):
            await engine.check()
    finally:
        await engine.close()


async def test_nothing_stays_of_calls_that_were_given_up(folder):
    """The library keeps a request in five places, under an id that nobody asks for again."""
    engine = TransformersEngine(str(folder), CONFIG)
    try:
        for i in range(40):
            async with aclosing(engine.generate(Call(f"r{i}", messages=question(f"{i}?")))) as chunks:
                await anext(chunks)
        await run(engine)  # all cancellations are seen before the next request
        processor = engine._manager.batch_processor
        assert processor is not None
        scheduler, cache = processor.scheduler, processor.cache
        assert not engine._sampler._rows
        assert not engine._manager.output_router.result_handlers
        assert not {**scheduler.active_requests, **scheduler.waiting_requests}
        assert not [*scheduler.waiting_requests_order, *scheduler._requests_to_cancel]
        assert not any(allocator.block_table for allocator in cache.cache_allocators.values())
    finally:
        await engine.close()


def test_models_that_cannot_be_loaded_are_refused_in_one_line(tmp_path, folder):
    for source, config, words in (
        (tmp_path / "nothing", CONFIG, "no such model folder on node"),
        (tmp_path, CONFIG, "cannot be loaded"),
        (folder, CONFIG.model_copy(update={"max_model_len": 512}), "takes 256 tokens"),
    ):
        with pytest.raises(ModelLoadError, match=words) as caught:
            TransformersEngine(str(source), config)
        assert "\n" not in str(caught.value)
