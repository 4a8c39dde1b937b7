"""What is the transformers engine's own; what every engine promises is in test_engine_conformance.py."""

import pytest

from experts.engine.base import Call
from experts.engine.config import TransformersConfig
from experts.engine.routing import Row
from experts.engine.transformers import TransformersEngine
from experts.errors import EngineDead, ModelLoadError
from tests.engine_world import run
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


def test_models_that_cannot_be_loaded_are_refused_in_one_line(tmp_path, folder):
    for source, config, words in (
        (tmp_path / "nothing", CONFIG, "no such model folder on node"),
        (tmp_path, CONFIG, "cannot be loaded"),
        (folder, CONFIG.model_copy(update={"max_model_len": 512}), "takes 256 tokens"),
    ):
        with pytest.raises(ModelLoadError, match=words) as caught:
            TransformersEngine(str(source), config)
        assert "\n" not in str(caught.value)
