"""Hand-overs in place of the default engine alone; test_in_place_conformance.py has those of both engines."""

import asyncio

import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

from experts.engine.config import TransformersConfig
from tests.support.engine_world import prompt_ids, run, running, token
from tests.support.reference_loop import ReferenceModel
from tests.tiny.activated_lora import ALLOWED, NUM_TOKENS, ActivatedLora, by_author, greedy
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

CONFIG = TransformersConfig(
    dtype="float32", max_streams=16, max_batch_tokens=48, max_adapters=4, max_adapter_rank=8, num_threads=1
)
TEXTS = [f"{'word ' * (number % 7)}question {number}" for number in range(16)]


@pytest.fixture(scope="module")
def law(tmp_path_factory) -> ActivatedLora:
    return ActivatedLora.save(tmp_path_factory.mktemp("models"))


async def test_requests_that_lost_their_cache_go_on_as_before(law):
    """Memory is short: the library drops the cache of requests, and prefills prompt and answer again."""
    config = CONFIG.model_copy(update={"cache_tokens": 256, "max_batch_tokens": 128})
    dropped: list[bool] = []
    async with running(config, law.base) as engine:
        await engine.load_adapter("law", str(law.folder), "exact")
        await engine.install(1, [law.always])
        manager = engine._manager.batch_processor.offloading_manager
        offload = manager.offload_requests

        def offload_and_note() -> bool:
            dropped.append(offload())
            return dropped[-1]

        manager.offload_requests = offload_and_note
        answers = await asyncio.gather(
            *(run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED) for text in TEXTS)
        )
    assert any(dropped)
    assert [by_author(chunks)[1] for chunks in answers] == [law.answer(text) for text in TEXTS]


async def test_a_sliding_window_is_read_again_as_a_whole(tmp_path, law):
    tokenizer = byte_level()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = save_peft_adapter(tmp_path / "base", tmp_path / "law", alora_invocation_tokens=law.invocation)
    sliding = ReferenceModel(tmp_path / "base")
    async with running(CONFIG, tmp_path / "base") as engine:
        await engine.load_adapter("law", str(tmp_path / "law"), "exact")
        always = token(sliding, "law", torch.zeros(sliding.head.shape[1]), bias=1000.0)
        await engine.install(1, [always])
        for text in TEXTS[:4]:
            _, ids = by_author(await run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED))
            assert ids == greedy(model, prompt_ids(sliding, text), sliding.stop_ids)
