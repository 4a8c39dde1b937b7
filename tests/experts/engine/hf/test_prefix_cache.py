"""A model reads only what it has not read, and answers as if it had read everything."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers.generation.continuous_batching.requests import RequestState

from experts.engine.config import TransformersConfig
from experts.engine.hf.batching import CPU_PAGE_TOKENS
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest
from tests.support.engine_world import ids_of, running
from tests.support.reference_loop import ReferenceModel
from tests.tiny.adapters import save_tiny_adapter
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = [pytest.mark.models, pytest.mark.asyncio(loop_scope="module")]

CONFIG = TransformersConfig(
    dtype="float32", max_streams=4, max_batch_tokens=48, max_adapters=2, max_adapter_rank=8, num_threads=1
)
WINDOW = 256


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level(), max_model_len=WINDOW)
    return folder


@pytest.fixture(scope="module")
def models(folder, tmp_path_factory) -> dict[str | None, ReferenceModel]:
    """The model alone, and with each of its adapters."""
    adapters = tmp_path_factory.mktemp("adapters")
    models: dict[str | None, ReferenceModel] = {None: ReferenceModel(folder)}
    for seed, name in enumerate("ab"):
        models[name] = save_tiny_adapter(folder, adapters / name, seed)
    return models


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder, models, tmp_path_factory):
    async with running(CONFIG, folder) as engine:
        for name in filter(None, models):
            await engine.load_adapter(name, str(adapter_folder(tmp_path_factory, name)))
        yield engine


def adapter_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    return next(tmp_path_factory.getbasetemp().glob(f"adapters*/{name}"))


async def follow(engine: TransformersEngine, ids: list[int], num_tokens: int, **options: Any) -> list[int]:
    request = EngineRequest("r", ids=tuple(ids), temperature=0.0, max_tokens=num_tokens, **options)
    return ids_of([chunk async for chunk in engine.generate(request)])


async def num_read(engine: TransformersEngine, ids: list[int], **options: Any) -> int:
    """How many tokens of this prompt the engine computes."""
    before = engine._cache.num_found_tokens
    await follow(engine, ids, 1, **options)
    return len(ids) - (engine._cache.num_found_tokens - before)


def text(seed: int, num_tokens: int) -> list[int]:
    """Ids that begin unlike those of any other seed."""
    return random.Random(seed).choices(range(20, 120), k=num_tokens)


async def test_prompt_and_answer_are_not_read_again(engine, models):
    prompt = text(1, 100)
    answer = await follow(engine, prompt, 60)
    assert answer == models[None].follow(prompt, 60)[0]
    assert await num_read(engine, [*prompt, *answer, 30, 31]) <= CPU_PAGE_TOKENS + 3


async def test_a_prompt_whose_answer_is_one_token_is_kept(engine):
    """As when the first token is an expert's: the request ends in the step that has read the prompt."""
    prompt = text(2, 40)
    assert await num_read(engine, prompt) == 40
    assert await num_read(engine, prompt) == 8


async def test_texts_that_are_alike_only_at_the_beginning_share_no_more(engine, models):
    prompt, other = text(3, 100), [*text(3, 50), *text(4, 50)]
    await follow(engine, prompt, 4)
    assert await num_read(engine, other) == 100 - 48
    assert await follow(engine, other, 12) == models[None].follow(other, 12)[0]


@pytest.mark.parametrize(("seed", "writer", "reader"), [(7, "a", None), (8, None, "a"), (9, "a", "b")])
async def test_a_text_that_another_writer_has_read_is_read_again(engine, models, seed, writer, reader):
    prompt = text(seed, 60)
    written = await follow(engine, prompt, 20, adapter=writer)
    collided = [*prompt, *written]
    assert await num_read(engine, collided, adapter=reader) == len(collided)
    assert await follow(engine, collided, 12, adapter=reader) == models[reader].follow(collided, 12)[0]
    assert await num_read(engine, collided, adapter=writer) <= CPU_PAGE_TOKENS
    assert await follow(engine, collided, 12, adapter=writer) == models[writer].follow(collided, 12)[0]


@pytest.mark.parametrize("adapter", [None, "a"])
async def test_a_text_that_was_read_with_another_salt_is_read_again(engine, models, adapter):
    prompt = text(10, 60)
    for salt in (None, "x", "y"):
        options = {"adapter": adapter, "cache_salt": salt}
        assert await num_read(engine, prompt, **options) == 60
        assert await num_read(engine, prompt, **options) == 60 - 48
        assert await follow(engine, prompt, 12, **options) == models[adapter].follow(prompt, 12)[0]


async def test_a_new_version_of_an_adapter_reads_everything_again(engine, models, tmp_path_factory):
    prompt = text(5, 60)
    await follow(engine, prompt, 4, adapter="b")
    await engine.load_adapter("b", str(adapter_folder(tmp_path_factory, "a")))
    assert await follow(engine, prompt, 12, adapter="b") == models["a"].follow(prompt, 12)[0]
    await engine.load_adapter("b", str(adapter_folder(tmp_path_factory, "b")))


async def test_nothing_is_kept_of_what_is_computed_after_a_request_was_left(engine):
    """Its adapter no longer applies to the steps until the library takes it out of the batch."""
    cache, blocks = engine._cache, engine._cache._blocks
    state = RequestState("left", initial_tokens=text(6, 32))
    assert cache.can_store_request_tokens(state, 32)
    state.position_offset = 32
    cache.mark_complete_blocks(state, {blocks.layer_type: 2})
    assert not blocks.ledger.block_to_hash.keys() & set(blocks.block_table["left"])
    cache.free_blocks("left")


async def test_without_the_setting_everything_is_read_again(folder):
    config = CONFIG.model_copy(update={"prefix_caching": False})
    async with running(config, folder) as engine:
        await follow(engine, text(1, 100), 4)
        assert (engine.keeps_prefixes, await num_read(engine, text(1, 100))) == (False, 100)
        assert engine.stats().cache_use == 0.0


async def test_the_texts_used_last_are_kept_and_a_running_request_gets_all_room(folder, models):
    async with running(CONFIG.model_copy(update={"cache_tokens": WINDOW}), folder) as engine:
        for seed in (1, 2, 3, 1):  # together 240 tokens
            await follow(engine, text(seed, 80), 1)
        stats = engine.stats()
        assert (stats.cache_use, stats.cache_kept) == (0.0, pytest.approx(240 / WINDOW))
        assert stats.num_cached_tokens == 64
        await follow(engine, text(4, 80), 1)
        assert [await num_read(engine, text(seed, 80)) for seed in (1, 3, 4, 2)] == [16, 16, 16, 80]
        long = text(5, WINDOW - 6)
        assert await follow(engine, long, 5) == models[None].follow(long, 5)[0]
        assert engine.stats().cache_kept <= 1.0


@pytest.mark.parametrize("cache_tokens", [None, WINDOW + 64], ids=["room for all", "too little room"])
async def test_random_conversations_give_the_same_text_as_without_a_cache(
    folder, models, tmp_path_factory, cache_tokens
):
    async with running(CONFIG.model_copy(update={"cache_tokens": cache_tokens}), folder) as engine:
        for name in filter(None, models):
            await engine.load_adapter(name, str(adapter_folder(tmp_path_factory, name)))
        # Several conversations of each number, which collide with each other all the time.
        talks = (converse(engine, models, random.Random(seed), seed % 2) for seed in range(6))
        await asyncio.gather(*talks)
        assert engine._cache.num_found_tokens > 0
        assert engine.stats().cache_use == 0.0


async def converse(
    engine: TransformersEngine, models: dict[str | None, ReferenceModel], chance: random.Random, number: int
) -> None:
    """Turns of random lengths by random writers; some are left in the middle of the answer."""
    ids = text(number, chance.choice([20, 33, 48]))
    while len(ids) < 120:
        writer = chance.choice([None, None, "a", "b"])
        if chance.random() < 0.3:
            await begin_and_leave(engine, ids, writer)
        num_tokens = chance.randint(1, 24)
        answer = await follow(engine, ids, num_tokens, adapter=writer)
        assert is_greedy(models[writer], ids, answer)
        ids += [*answer, *text(len(ids), chance.randint(1, 20))]


@torch.no_grad()
def is_greedy(reference: ReferenceModel, ids: list[int], answer: list[int]) -> bool:
    logits = reference.model(torch.tensor([ids + answer]), use_cache=False).logits[0]
    return answer == logits[len(ids) - 1 : -1].argmax(-1).tolist()


async def begin_and_leave(engine: TransformersEngine, ids: list[int], writer: str | None) -> None:
    request = EngineRequest("r", ids=tuple(ids), temperature=0.0, max_tokens=30, adapter=writer)
    async with aclosing(engine.generate(request)) as chunks:
        async for _ in chunks:
            return
