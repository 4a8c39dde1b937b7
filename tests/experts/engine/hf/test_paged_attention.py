"""Attention over a paged batch gives the library's results, without the products that it throws away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, MistralConfig, MistralForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from experts.engine.config import TransformersConfig
from experts.engine.hf import paged_attention
from experts.engine.hf.engine import TransformersEngine
from tests.support.engine_world import ids_of, prompt_ids, question, run
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import save_tiny_llama
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.models

CONFIG = TransformersConfig(dtype="float32", max_streams=8, max_batch_tokens=64, num_threads=1)
TEXTS = ("a", "hello", "a question that is longer than the others are, and by far " * 2, "why?")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """Computes all attention both ways. Yields the number of sequences and of rows of each computation."""
    sizes: list[tuple[int, int]] = []

    def both(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        ours, _ = paged_attention.attend(module, query, key, value, mask, **kwargs)
        theirs, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        torch.testing.assert_close(ours, theirs)
        sizes.append((len(kwargs["cu_seq_lens_q"]) - 1, query.shape[2]))
        return ours, None

    monkeypatch.setattr(
        paged_attention, "register", lambda: AttentionInterface.register(paged_attention.NAME, both)
    )
    yield sizes
    monkeypatch.undo()
    paged_attention.register()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_llama(tmp_path / "meta", byte_level())
    return tmp_path / "meta"


async def all_at_once(folder: Path, *texts: str) -> list[list[int]]:
    engine = TransformersEngine(str(folder), CONFIG)
    try:
        return [ids_of(chunks) for chunks in await asyncio.gather(*(run(engine, text) for text in texts))]
    finally:
        await engine.close()


@pytest.mark.parametrize("texts", [TEXTS[:1], TEXTS[:2], TEXTS])
async def test_all_rows_equal_the_librarys(folder, compared, texts):
    """Prefills in one and in several steps, beside rows that decode; long and short prompts together."""
    answers = await all_at_once(folder, *texts)
    assert all(len(ids) == 12 for ids in answers)
    assert any(num_rows == num_sequences == len(texts) for num_sequences, num_rows in compared)
    assert any(num_rows > num_sequences for num_sequences, num_rows in compared)


async def test_no_sequence_is_multiplied_with_another_ones_keys(folder, monkeypatch):
    """Regression: work grew with the square of the number of streams."""
    num_pairs: list[int] = []

    def counted(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        num_pairs.append(query.shape[0] * key.shape[2])
        return scaled_dot_product_attention(query, key, *rest, **options)

    monkeypatch.setattr(paged_attention, "scaled_dot_product_attention", counted)
    longest = len(prompt_ids(ReferenceModel(folder), "hello")) + 12
    await all_at_once(folder, *["hello"] * 8)
    assert max(num_pairs) <= 8 * longest
    assert any(num > 7 * (longest - 12) for num in num_pairs)  # eight sequences in one product


async def test_padding_is_computed_once_per_step_for_all_layers(folder, monkeypatch):
    widths: list[int] = []

    def counted(index: Tensor, starts: Tensor, longest: int, dtype: torch.dtype) -> Any:
        widths.append(longest)
        return pad(index, starts, longest, dtype)

    pad = paged_attention._pad
    monkeypatch.setattr(paged_attention, "_pad", counted)
    await all_at_once(folder, "hello", "hello")
    assert widths
    assert all(width != later for width, later in pairwise(widths))  # the longest grows with each step


async def test_a_sliding_window_is_respected(tmp_path: Path):
    tokenizer = byte_level()
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        sliding_window=16,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.4,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path / "meta")
    tokenizer.save_pretrained(tmp_path / "meta")
    reference = ReferenceModel(tmp_path / "meta")
    expected = [reference.write(question(text), "", 12)[0] for text in TEXTS]
    assert await all_at_once(tmp_path / "meta", *TEXTS) == expected
