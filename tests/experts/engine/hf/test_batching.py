"""The window is never longer than the KV cache, so no request can stop the loop that serves all others."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config.transformers import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest
from experts.errors import ContextLengthExceeded, ModelLoadError
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

CACHE_TOKENS = 256
CONFIG = TransformersConfig(dtype="float32", max_streams=4, num_threads=1, cache_tokens=CACHE_TOKENS)
COMMON: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
}


def plain_model(**changes: Any) -> PreTrainedModel:
    config = LlamaConfig(vocab_size=len(byte_level()), num_hidden_layers=1, **{**COMMON, **changes})
    return LlamaForCausalLM(config)


def two_groups_of_layers(num_layers: int) -> PreTrainedModel:
    """One layer without a sliding window, and the other layers with one of 600 tokens."""
    layer_types = ["sliding_attention"] * (num_layers - 1) + ["full_attention"]
    config = Gemma3TextConfig(
        vocab_size=len(byte_level()),
        num_hidden_layers=num_layers,
        layer_types=layer_types,
        sliding_window=600,
        **COMMON,
    )
    return Gemma3ForCausalLM(config)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """Never ends an answer by itself: the token for it has the logit 0, and another one a larger logit."""
    tokenizer = byte_level()
    model.generation_config.eos_token_id = None
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


async def answer(engine: TransformersEngine, ids: list[int], **options: Any) -> list[EngineChunk]:
    request = EngineRequest("r", ids=tuple(ids), temperature=0.0, **options)
    return [chunk async for chunk in engine.generate(request)]


@pytest.mark.parametrize("num_layers", [None, 2, 4], ids=["one group", "1 and 1 layers", "3 and 1 layers"])
async def test_a_request_without_a_limit_ends_where_the_cache_does(tmp_path: Path, num_layers: int | None):
    """Regression: it stopped the generation loop, and with it the answers of all clients of the replica."""
    model = two_groups_of_layers(num_layers) if num_layers else plain_model()
    engine = TransformersEngine(str(saved(model, tmp_path)), CONFIG)
    try:
        window = engine._tokenizer.max_model_len
        assert window == pytest.approx(CACHE_TOKENS, abs=64)
        longest, other = await asyncio.gather(
            answer(engine, [5] * (window - 40)), answer(engine, [6, 7, 8], max_tokens=60)
        )
        for chunks, num_tokens in ((longest, 40), (other, 60)):
            assert sum(len(chunk.token_ids) for chunk in chunks) == num_tokens
            assert chunks[-1].finish is FinishReason.LENGTH
        with pytest.raises(ContextLengthExceeded, match=f"maximum context length is {window} tokens"):
            await answer(engine, [5] * window)
        await engine.check()
    finally:
        await engine.close()


async def test_a_configured_window_fits_into_a_cache_of_its_size(tmp_path: Path):
    """Each group of layers has its own part of the cache, and may leave some of it unused."""
    config = CONFIG.model_copy(update={"max_model_len": CACHE_TOKENS})
    engine = TransformersEngine(str(saved(two_groups_of_layers(4), tmp_path)), config)
    try:
        chunks = await answer(engine, [5] * (CACHE_TOKENS - 2))
        assert sum(len(chunk.token_ids) for chunk in chunks) == 2
    finally:
        await engine.close()


async def test_a_machine_without_memory_for_all_streams_has_a_smaller_cache(tmp_path: Path, monkeypatch):
    """Regression: 32 streams with the windows that models have today need more memory than most machines."""
    folder = saved(plain_model(max_position_embeddings=2**20), tmp_path)
    limit_memory(monkeypatch, 64 * 2**20)
    engine = TransformersEngine(str(folder), CONFIG.model_copy(update={"cache_tokens": None}))
    try:
        assert 1000 < engine._tokenizer.max_model_len < 2**20
        assert len(await answer(engine, [5, 6], max_tokens=3))
    finally:
        await engine.close()


def test_a_configured_window_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch):
    folder = saved(plain_model(max_position_embeddings=2**20), tmp_path)
    limit_memory(monkeypatch, 64 * 2**20)
    config = CONFIG.model_copy(update={"cache_tokens": None, "max_model_len": 2**20})
    with pytest.raises(ModelLoadError, match=r"max_model_len is 1048576, but .* \d+ tokens; lower"):
        TransformersEngine(str(folder), config)


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    """Let the library find this much memory that is not this process's own."""
    total = num_bytes + psutil.Process().memory_info().rss
    memory = SimpleNamespace(total=total, available=total)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
