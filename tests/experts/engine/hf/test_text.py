"""The text of answers through the engine, for tokenizers that spell rare characters in bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import torch

from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest, Resumed
from tests.support.engine_world import ids_of, run, text_of
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level, sentencepiece_like

CONFIG = TransformersConfig(dtype="float32", max_streams=8, num_threads=1)
TOKENIZER = sentencepiece_like()

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.filterwarnings("default")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def letters(tmp_path_factory) -> AsyncIterator[TransformersEngine]:
    """A model that writes only letters from a to z."""
    folder = tmp_path_factory.mktemp("models") / "expert"
    model = save_tiny_llama(folder, TOKENIZER)
    first, last = (TOKENIZER.get_vocab()[letter] for letter in "az")
    with torch.no_grad():
        model.lm_head.weight[:first] = 0
        model.lm_head.weight[last + 1 :] = 0
    model.save_pretrained(folder)
    engine = TransformersEngine(str(folder), CONFIG)
    yield engine
    await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bytes_and_letters(tmp_path_factory) -> AsyncIterator[TransformersEngine]:
    folder = tmp_path_factory.mktemp("models") / "expert"
    save_tiny_llama(folder, TOKENIZER, whole_characters=False)
    engine = TransformersEngine(str(folder), CONFIG)
    yield engine
    await engine.close()


@pytest.mark.parametrize(
    "written", ["Hello ", "นี่คือ", "答えは東京", "family 👨\u200d👩\u200d👧", "The answer is\ufffd"]
)
async def test_an_expert_adds_only_its_own_words_to_text_of_any_script(letters, written):
    chunks = await run(letters, written=written, max_tokens=8)
    assert text_of(chunks).isascii()
    assert text_of(chunks).strip() == str(TOKENIZER.decode(ids_of(chunks))).strip()


async def test_a_resumed_answer_goes_on_after_characters_in_bytes(letters):
    first = TOKENIZER("สวัสดีครับ", add_special_tokens=False)["input_ids"]
    (fingerprint,) = {chunk.tokenizer for chunk in await run(letters) if chunk.tokenizer}
    resumed = Resumed(str(TOKENIZER.decode(first)), tuple(first), fingerprint)
    chunks = await run(letters, resumed=resumed, position=len(first), max_tokens=8)
    assert text_of(chunks).isascii()
    assert len(text_of(chunks)) >= 8


async def test_sampled_stray_bytes_end_no_answer(bytes_and_letters):
    """Regression: they raised "Invalid prefix encountered while decoding stream"."""
    settings = {"temperature": 1.0, "max_tokens": 40}
    answers = await asyncio.gather(
        *(run(bytes_and_letters, f"q{seed}", seed=seed, **settings) for seed in range(24))
    )
    assert all(chunks[-1].finish for chunks in answers)
    texts = [text_of(chunks) for chunks in answers]
    assert any("\ufffd" in text for text in texts)


async def test_the_end_of_a_prompt_does_not_come_back(tmp_path):
    save_tiny_llama(tmp_path / "meta", byte_level())
    engine = TransformersEngine(str(tmp_path / "meta"), CONFIG)
    try:
        for prompt in ("my secret prompt", "my secret prompt\ufffd"):
            request = EngineRequest("r", text=prompt, temperature=0.0, max_tokens=6)
            chunks = [chunk async for chunk in engine.generate(request)]
            assert "prompt" not in text_of(chunks)
            assert text_of(chunks) == byte_level().decode(ids_of(chunks), skip_special_tokens=True)
    finally:
        await engine.close()
