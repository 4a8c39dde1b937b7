"""What is the vLLM engine's own; what every engine promises is in test_engine_conformance.py."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest

from experts.engine.base import Call
from experts.engine.config import ModelSource, VllmConfig
from experts.engine.make import make_engine
from experts.errors import EngineDead, ModelLoadError, UnknownAdapter
from tests.engine_world import ids_of, question, run
from tests.reference import ReferenceModel
from tests.tiny_adapters import save_tiny_adapter
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import byte_level

CONFIG = VllmConfig(dtype="float32", max_streams=4, cache_bytes=2**24, enforce_eager=True)

pytestmark = pytest.mark.filterwarnings("default")  # of vLLM's own code
installed = pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, byte_level(), head_dim=32)
    return folder


@asynccontextmanager
async def started(folder: Path, **changes: Any) -> AsyncIterator[Any]:
    engine = make_engine(ModelSource(path=str(folder)), CONFIG.model_copy(update=changes))
    try:
        yield engine
    finally:
        await engine.close()


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed")
def test_where_vllm_is_missing_its_extra_is_named(folder):
    with pytest.raises(ModelLoadError, match=r"install expert-token-routing\[vllm\]"):
        make_engine(ModelSource(path=str(folder)), CONFIG)


@installed
async def test_an_engine_that_gives_no_token_for_long_or_whose_processes_died_says_so(folder):
    """A replica that only hangs would keep its requests; one that says so is replaced."""
    asked = Call("r", messages=question("hello"), temperature=0.0, max_tokens=200)
    async with started(folder, stall_s=1e-9) as engine:
        await run(engine)
        await engine.check()
        stream = engine.generate(asked)
        await anext(stream)
        with pytest.raises(EngineDead, match="no token"):
            await engine.check()
        await stream.aclose()
        await engine.check()

        stream = engine.generate(asked)
        await anext(stream)
        for process in psutil.Process().children(recursive=True):
            if "Worker" in process.name() or "EngineCore" in process.name():
                os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(EngineDead, match="a process of vLLM died"):
            async for _ in stream:
                pass
        with pytest.raises(EngineDead, match="a process of vLLM died"):
            await engine.check()
        with pytest.raises(EngineDead):
            await run(engine)
        with pytest.raises(EngineDead):
            await engine.install(1, [])
        assert engine.stats().num_running == 0


@installed
@pytest.mark.parametrize(
    ("changes", "words"),
    [({"max_model_len": 512}, "takes 256 tokens"), ({"cache_bytes": 2**16}, "vLLM cannot run it")],
)
def test_models_that_cannot_be_loaded_are_refused_in_one_line(folder, changes, words):
    with pytest.raises(ModelLoadError, match=words) as caught:
        make_engine(ModelSource(path=str(folder)), CONFIG.model_copy(update=changes))
    assert "\n" not in str(caught.value)


@installed
def test_a_model_that_cannot_end_a_turn_is_refused(folder, tmp_path):
    tokenizer = byte_level()
    tokenizer.eos_token = None
    save_tiny_llama(tmp_path / "meta", tokenizer, head_dim=32)
    with pytest.raises(ModelLoadError, match="eos_token_id"):
        make_engine(ModelSource(path=str(tmp_path / "meta")), CONFIG)


@installed
async def test_adapters_come_and_go_while_the_engine_answers(folder, tmp_path):
    """Each writes what a model with its weights merged in writes; several take part in one batch."""
    expected = {name: merged(folder, tmp_path / name, seed) for name, seed in (("law", 1), ("chem", 2))}
    plain, _ = ReferenceModel(folder).write(question("hello"), "", 12)
    async with started(folder, max_adapters=2, max_adapter_rank=8) as engine:
        with pytest.raises(UnknownAdapter, match="law"):
            await run(engine, adapter="law")
        for name in expected:
            await engine.load_adapter(name, str(tmp_path / name))
        answers = await asyncio.gather(*(run(engine, adapter=name) for name in ("law", None, "chem")))
        assert [ids_of(chunks) for chunks in answers] == [expected["law"], plain, expected["chem"]]

        stream = engine.generate(
            Call("r", messages=question("hello"), temperature=0.0, max_tokens=12, adapter="law")
        )
        chunks = [await anext(stream)]
        unloading = asyncio.create_task(engine.unload_adapter("law"))
        chunks += [chunk async for chunk in stream]
        await unloading
        assert ids_of(chunks) == expected["law"]
        with pytest.raises(UnknownAdapter):
            await run(engine, adapter="law")

        await engine.load_adapter("chem", str(tmp_path / "law"))  # other weights under the same name
        assert ids_of(await run(engine, adapter="chem")) == expected["law"]
        await engine.load_adapter("law", str(tmp_path / "law"))
        with pytest.raises(ModelLoadError, match="no room for adapter 'third' beside 2 others"):
            await engine.load_adapter("third", str(tmp_path / "law"))
        await engine.unload_adapter("law")
        with pytest.raises(ModelLoadError, match=r"no such folder") as caught:
            await engine.load_adapter("bad", str(tmp_path / "nothing"))
        assert "\n" not in str(caught.value)
        save_tiny_adapter(folder, tmp_path / "bad", seed=3, target="nonsense")
        for _ in range(4):  # more often than there are slots
            with pytest.raises(ModelLoadError, match=r"adapter 'bad' cannot be loaded"):
                await engine.load_adapter("bad", str(tmp_path / "bad"))
        assert ids_of(await run(engine, adapter="chem")) == expected["law"]
        assert ids_of(await run(engine)) == plain


def merged(base: Path, folder: Path, seed: int) -> list[int]:
    """Writes a LoRA adapter to `folder`; the ids that the base with it merged in answers to "hello"."""
    ids, _ = save_tiny_adapter(base, folder, seed).write(question("hello"), "", 12)
    return ids
