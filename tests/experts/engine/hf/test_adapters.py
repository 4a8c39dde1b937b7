"""Answers of adapters in the default engine are those of PEFT, which keeps base and adapter apart."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.engine.config import ModelSource, TransformersConfig
from experts.engine.factory import make_engine
from experts.engine.hf.engine import TransformersEngine
from experts.errors import ModelLoadError
from tests.support.engine_world import ids_of, prompt_ids, question, run
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

# Short steps, so that prompts are prefilled in pieces while other requests decode.
CONFIG = TransformersConfig(
    dtype="float32", max_streams=8, max_batch_tokens=32, max_adapters=8, max_adapter_rank=8, num_threads=1
)
ADAPTERS: dict[str, dict[str, Any]] = {
    "attention": {},
    "all": {"target_modules": "all-linear", "r": 8, "use_rslora": True},
    "mlp": {"target_modules": ["up_proj", "down_proj"], "r": 2, "alpha_pattern": {"up_proj": 9}},
    "last": {"target_modules": ["o_proj"], "layers_to_transform": [1], "lora_alpha": 32},
}
NUM_TOKENS = 16


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, base) -> dict[str, tuple[Path, Any]]:
    """By name: the folder, and PEFT's model."""
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: (root / name, save_peft_adapter(base, root / name, seed=seed, **settings))
        for seed, (name, settings) in enumerate(ADAPTERS.items())
    }


@torch.no_grad()
def greedy(model: Any, ids: list[int]) -> list[int]:
    output = model.generate(
        input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=-1
    )
    return [int(each) for each in output[0, len(ids) :]]


async def test_rows_of_several_adapters_answer_as_peft_does(base, adapters):
    reference = ReferenceModel(base)
    models = {"": reference.model} | {name: model for name, (_, model) in adapters.items()}
    cases = [(name, "word " * number) for number in (1, 9) for name in models]
    expected = [greedy(models[name], prompt_ids(reference, text)) for name, text in cases]
    assert len({tuple(ids) for ids in expected}) == len(cases)
    engine = make_engine(ModelSource(path=str(base)), CONFIG)
    assert isinstance(engine, TransformersEngine)
    try:
        for name, (folder, _) in adapters.items():
            await engine.load_adapter(name, str(folder))
        answers = await asyncio.gather(
            *(run(engine, text, max_tokens=NUM_TOKENS, adapter=name or None) for name, text in cases)
        )
        stop_ids = engine._tokenizer.stop_ids
    finally:
        await engine.close()
    for chunks, ids in zip(answers, expected, strict=True):
        end = next((i for i, each in enumerate(ids) if each in stop_ids), len(ids))
        assert ids_of(chunks) == ids[:end]


async def test_a_model_with_an_adapter_answers_as_the_merged_model(base, adapters):
    folder, model = adapters["all"]
    engine = make_engine(
        ModelSource(path=str(base), adapter=str(folder)), TransformersConfig(dtype="float32")
    )
    try:
        ids = ids_of(await run(engine, "hello", max_tokens=NUM_TOKENS))
    finally:
        await engine.close()
    assert ids == greedy(model, prompt_ids(ReferenceModel(base), "hello"))[: len(ids)]
    plain, _ = ReferenceModel(base).write(question("hello"), "", NUM_TOKENS)
    assert ids != plain


async def test_an_adapter_of_too_high_a_rank_is_refused(base, tmp_path):
    save_peft_adapter(base, tmp_path, r=16)
    engine = TransformersEngine(str(base), CONFIG)
    try:
        with pytest.raises(ModelLoadError, match=r"has rank 16, above engine.max_adapter_rank 8; raise it"):
            await engine.load_adapter("law", str(tmp_path))
    finally:
        await engine.close()


async def test_an_engine_without_adapters_says_how_to_turn_them_on(base, adapters):
    engine = TransformersEngine(str(base), CONFIG.model_copy(update={"max_adapters": 0}))
    try:
        with pytest.raises(ModelLoadError, match=r"raise engine.max_adapters"):
            await engine.load_adapter("law", str(adapters["all"][0]))
    finally:
        await engine.close()
