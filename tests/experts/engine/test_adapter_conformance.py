"""Tests of the `AdapterEngine` contract, for each engine: answers are those of models with merged weights."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from experts.engine.base import AdapterEngine
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.engine.request import EngineRequest
from experts.errors import ModelLoadError, UnknownAdapter
from tests.support.engine_world import ENGINE_KINDS, ids_of, question, run, running
from tests.support.reference_loop import ReferenceModel
from tests.tiny.adapters import save_tiny_adapter
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

SETTINGS: dict[str, Any] = {"dtype": "float32", "max_streams": 8, "max_adapters": 2, "max_adapter_rank": 8}
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(**SETTINGS, num_threads=1),
    "vllm": VllmConfig(**SETTINGS, cache_bytes=2**24, enforce_eager=True),
}
# Long enough for a prefix that engines share among requests.
TEXT = "a question that fills several pages of the cache of keys and values"
NUM_TOKENS = 40  # so many that adapters change while they are generated

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(scope="module", params=ENGINE_KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level(), head_dim=32)
    return folder


@pytest.fixture(scope="module")
def plain(base):
    return written(ReferenceModel(base))


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory) -> dict[Path, list[int]]:
    """Three adapters, and the answers of the base with each merged into it."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        folder / str(seed): written(save_tiny_adapter(base, folder / str(seed), seed)) for seed in (1, 2, 3)
    }


def written(reference: ReferenceModel) -> list[int]:
    return reference.write(question(TEXT), "", NUM_TOKENS)[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_engine(kind, base):
    async with running(CONFIGS[kind], base) as engine:
        assert isinstance(engine, AdapterEngine)
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def engine(shared_engine):
    """Started once, because that is slow; without adapters after each test."""
    yield shared_engine
    for name in ("law", "chem", "bad", "third"):
        try:
            await shared_engine.unload_adapter(name)
        except UnknownAdapter:
            continue


async def answer(engine: AdapterEngine, adapter: str | None) -> list[int]:
    return ids_of(await run(engine, TEXT, max_tokens=NUM_TOKENS, adapter=adapter))


async def test_each_row_of_a_batch_has_its_own_adapter(engine, adapters, plain):
    (law, legal), (chem, chemical), _ = adapters.items()
    await engine.load_adapter("law", str(law))
    await engine.load_adapter("chem", str(chem))
    names = ["law", None, "chem", None, "law", "chem", "chem"]
    answers = await asyncio.gather(*(answer(engine, name) for name in names))
    assert answers == [legal, plain, chemical, plain, legal, chemical, chemical]


async def test_the_same_prompt_shares_no_keys_and_values_across_adapters(engine, adapters, plain):
    (law, legal), (chem, chemical), _ = adapters.items()
    assert await answer(engine, None) == plain
    await engine.load_adapter("law", str(law))
    assert await answer(engine, "law") == legal
    await engine.load_adapter("chem", str(chem))
    assert [await answer(engine, name) for name in ("chem", "law", None)] == [chemical, legal, plain]
    await engine.load_adapter("law", str(chem))
    assert await answer(engine, "law") == chemical


async def test_an_adapter_is_replaced_while_it_answers(engine, adapters):
    (law, legal), (chem, chemical), _ = adapters.items()
    await engine.load_adapter("law", str(law))
    chunks, stream = await begun(engine, "law")
    async with aclosing(stream):
        await engine.load_adapter("law", str(chem))
        assert await answer(engine, "law") == chemical
        chunks += [chunk async for chunk in stream]
    assert ids_of(chunks) == legal
    assert await answer(engine, "law") == chemical


async def test_an_adapter_is_unloaded_after_its_last_request(engine, adapters):
    (law, legal), *_ = adapters.items()
    await engine.load_adapter("law", str(law))
    chunks, stream = await begun(engine, "law")
    async with aclosing(stream):
        await engine.unload_adapter("law")
        with pytest.raises(UnknownAdapter, match="law"):
            await answer(engine, "law")
        chunks += [chunk async for chunk in stream]
    assert ids_of(chunks) == legal
    with pytest.raises(UnknownAdapter):
        await engine.unload_adapter("law")


async def test_adapters_come_and_go_more_often_than_there_are_slots(engine, adapters, plain):
    for _ in range(2):
        for folder, expected in adapters.items():
            await engine.load_adapter("law", str(folder))
            answers = await asyncio.gather(answer(engine, "law"), answer(engine, None))
            assert list(answers) == [expected, plain]
        await engine.unload_adapter("law")


async def test_one_adapter_too_many_is_refused_and_the_others_stay(engine, adapters):
    (law, legal), (chem, _), (third, _) = adapters.items()
    await engine.load_adapter("law", str(law))
    await engine.load_adapter("chem", str(chem))
    with pytest.raises(ModelLoadError, match="no room for adapter 'third' beside 2 others"):
        await engine.load_adapter("third", str(third))
    assert await answer(engine, "law") == legal


async def test_an_adapter_that_cannot_be_loaded_is_refused_and_takes_no_room(
    engine, base, adapters, tmp_path
):
    (law, legal), *_ = adapters.items()
    await engine.load_adapter("law", str(law))
    save_tiny_adapter(base, tmp_path / "bad", seed=3, target="nonsense")
    for _ in range(4):  # more than there are slots
        with pytest.raises(ModelLoadError, match=f"^{tmp_path}/bad: .*") as caught:
            await engine.load_adapter("bad", str(tmp_path / "bad"))
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelLoadError, match="no such folder"):
        await engine.load_adapter("bad", str(tmp_path / "nothing"))
    assert await answer(engine, "law") == legal
    with pytest.raises(UnknownAdapter, match="bad"):
        await answer(engine, "bad")


async def begun(engine: AdapterEngine, adapter: str) -> tuple[list[Any], Any]:
    """The first chunk of an answer, and the stream of the others."""
    request = EngineRequest(
        "r", messages=question(TEXT), temperature=0.0, max_tokens=NUM_TOKENS, adapter=adapter
    )
    stream = engine.generate(request)
    return [await anext(stream)], stream
