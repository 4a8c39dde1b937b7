"""Attention over a paged batch is what the library computes, without what it throws away."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, MistralConfig, MistralForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from experts.engine import attention
from experts.engine.config import TransformersConfig
from experts.engine.transformers import TransformersEngine
from tests.engine_world import ids_of, prompt_ids, question, run
from tests.reference import ReferenceModel
from tests.tiny_models import save_tiny_llama
from tests.tiny_tokenizers import byte_level

CONFIG = TransformersConfig(dtype="float32", max_streams=8, max_batch_tokens=64, num_threads=1)
TEXTS = ("a", "hello", "a question that is longer than the others are, and by far " * 2, "why?")


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, int]]]:
    """All attention is computed in both ways; of each, the number of sequences and of rows."""
    seen: list[tuple[int, int]] = []

    def both(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        ours, _ = attention.attend(module, query, key, value, mask, **kwargs)
        theirs, _ = sdpa_attention_forward(module, query, key, value, mask, **kwargs)
        torch.testing.assert_close(ours, theirs)
        seen.append((len(kwargs["cu_seq_lens_q"]) - 1, query.shape[2]))
        return ours, None

    monkeypatch.setattr(attention, "use", lambda: AttentionInterface.register(attention.NAME, both))
    yield seen
    monkeypatch.undo()
    attention.use()


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
async def test_all_rows_get_what_the_library_computes(folder, compared, texts):
    """Prompts in one piece and in several, beside rows that go on; long and short ones together."""
    answers = await all_at_once(folder, *texts)
    assert all(len(ids) == 12 for ids in answers)
    assert any(num_rows == num_sequences == len(texts) for num_sequences, num_rows in compared)
    assert any(num_rows > num_sequences for num_sequences, num_rows in compared)


async def test_no_sequence_is_multiplied_with_another(folder, monkeypatch):
    """Regression: work grew with the square of the number of streams."""
    num_pairs: list[int] = []

    def counted(query: Tensor, key: Tensor, *rest: Any, **options: Any) -> Tensor:
        num_pairs.append(query.shape[0] * key.shape[2])
        return scaled_dot_product_attention(query, key, *rest, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)
    longest = len(prompt_ids(ReferenceModel(folder), "hello")) + 12
    await all_at_once(folder, *["hello"] * 8)
    assert max(num_pairs) <= 8 * longest
    assert any(num > 7 * (longest - 12) for num in num_pairs)  # eight together


async def test_what_all_layers_read_is_worked_out_once_a_step(folder, monkeypatch):
    widths: list[int] = []

    def counted(index: Tensor, starts: Tensor, longest: int, dtype: torch.dtype) -> Any:
        widths.append(longest)
        return padded(index, starts, longest, dtype)

    padded = attention._padded
    monkeypatch.setattr(attention, "_padded", counted)
    await all_at_once(folder, "hello", "hello")
    assert widths
    assert widths == sorted(set(widths))  # by each step the longest is longer


async def test_a_window_that_slides_is_kept_to(tmp_path: Path):
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
