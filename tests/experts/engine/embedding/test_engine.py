"""The engine that embeds, with a tiny encoder and a tiny decoder, compared with the models alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaModel,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import EmbeddingConfig, ModelSource
from experts.engine.embedding.engine import EmbeddingEngine
from experts.engine.request import EngineRequest
from experts.engine.tasks import Embed, Task, Tokenize
from experts.errors import EngineDead, InvalidCall, ModelLoadError, TokenMismatch

pytestmark = pytest.mark.models

WORDS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "iron", "gold", "law", "sea", "ping")
SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
TEXTS = ("iron", "gold law sea", "sea iron gold gold gold law")
IDS = ((1, 4, 2), (1, 5, 6, 7, 2), (1, 7, 4, 5, 5, 5, 6, 2))


def save(folder: Path, model: PreTrainedModel, **pooling: Any) -> Path:
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = Whitespace()
    words.post_processor = TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained(folder)
    model.eval().save_pretrained(folder)
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = BertModel(BertConfig(**SIZES, initializer_range=0.4))
    return save(tmp_path_factory.mktemp("encoder"), model, pooling_mode_mean_tokens=True)


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = LlamaModel(LlamaConfig(**SIZES, initializer_range=0.4))
    return save(tmp_path_factory.mktemp("decoder"), model, pooling_mode="lasttoken")


@pytest.fixture
async def engine(encoder: Path) -> AsyncIterator[EmbeddingEngine]:
    engine = made(encoder, matryoshka=True, max_batch_tokens=16)
    yield engine
    await engine.close()


def made(folder: Path, **settings: Any) -> EmbeddingEngine:
    return EmbeddingEngine(ModelSource(path=str(folder)), EmbeddingConfig(device="cpu", **settings))


async def ask(
    engine: EmbeddingEngine, inputs: tuple[str | tuple[int, ...], ...] | None, task: Task | None = None
) -> EngineChunk:
    chunks = [chunk async for chunk in engine.generate(EngineRequest("r", inputs=inputs, task=task))]
    assert len(chunks) == 1
    return chunks[0]


def numbers(vector: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(vector), dtype=torch.float32)


def alone(folder: Path, ids: tuple[int, ...], pooling: str, *, is_normal: bool = True) -> torch.Tensor:
    """The vector of one input without padding."""
    with torch.inference_mode():
        hidden = AutoModel.from_pretrained(folder)(torch.tensor([ids])).last_hidden_state[0]
    vector = {"mean": hidden.mean(dim=0), "cls": hidden[0], "last": hidden[-1]}[pooling]
    return vector / vector.norm() if is_normal else vector


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("pooling", [None, "mean", "cls", "last"])
async def test_a_batch_gives_the_vectors_of_each_input_alone(
    request: pytest.FixtureRequest, kind: str, pooling: str | None
):
    folder: Path = request.getfixturevalue(kind)
    engine = made(folder, pooling=pooling)
    texts, ids = await ask(engine, TEXTS, Embed()), await ask(engine, IDS, Embed())
    await engine.close()
    wanted = pooling or {"encoder": "mean", "decoder": "last"}[kind]
    for by_text, by_ids, given in zip(texts.vectors, ids.vectors, IDS, strict=True):
        torch.testing.assert_close(numbers(by_text), alone(folder, given, wanted), atol=1e-5, rtol=1e-4)
        assert by_text == by_ids
    assert (texts.num_prompt_tokens, texts.finish) == (16, FinishReason.STOP)


async def test_requests_share_batches_by_turns_and_each_gets_its_own_vectors(
    encoder: Path, engine: EmbeddingEngine
):
    steps: list[int] = []
    embed = engine._model.embed

    def counted(rows: Any) -> torch.Tensor:
        steps.append(len(rows))
        return embed(rows)

    engine._model.embed = counted  # type: ignore[method-assign, assignment]
    long, short = await asyncio.gather(ask(engine, (IDS[0],) * 40, Embed()), ask(engine, (IDS[1],), Embed()))
    assert len(long.vectors) == 40
    assert len(steps) < 15
    torch.testing.assert_close(
        numbers(short.vectors[0]), alone(encoder, IDS[1], "mean"), atol=1e-5, rtol=1e-4
    )
    assert engine.stats().num_running == engine.stats().num_waiting == 0


@pytest.mark.parametrize(
    ("inputs", "code", "words"),
    [
        (("iron", "sea " * 15), "context_length_exceeded", "input[1] has 17 tokens"),
        ((tuple([4] * 17),), "context_length_exceeded", "takes at most 16"),
        ((IDS[0], (4, 9)), "invalid_value", "input[1] has the token id 9"),
    ],
    ids=["long text", "long ids", "unknown id"],
)
async def test_an_input_that_cannot_be_embedded_is_named(
    engine: EmbeddingEngine, inputs: tuple[str | tuple[int, ...], ...], code: str, words: str
):
    with pytest.raises(InvalidCall) as caught:
        await ask(engine, inputs, Embed())
    assert (caught.value.code, caught.value.param) == (code, "input")
    assert words in str(caught.value)


async def test_a_vector_is_cut_and_normalised_again_only_if_the_model_may_be_cut(
    encoder: Path, engine: EmbeddingEngine
):
    whole, cut = alone(encoder, IDS[1], "mean"), numbers((await ask(engine, TEXTS[1:2], Embed(8))).vectors[0])
    torch.testing.assert_close(cut, whole[:8] / whole[:8].norm(), atol=1e-5, rtol=1e-4)
    with pytest.raises(InvalidCall, match="above the 32"):
        await ask(engine, TEXTS, Embed(33))
    fixed = made(encoder)
    with pytest.raises(InvalidCall, match="may not be cut"):
        await ask(fixed, TEXTS, Embed(8))
    await fixed.close()


async def test_a_probe_runs_the_model_and_other_tasks_are_refused(engine: EmbeddingEngine):
    assert (await ask(engine, None)).finish is FinishReason.STOP
    with pytest.raises(InvalidCall, match="only has embeddings"):
        await ask(engine, None, Tokenize())
    with pytest.raises(TokenMismatch):
        await engine.install(1, [])
    await engine.check()


async def test_a_failed_step_fails_its_requests_alone(engine: EmbeddingEngine):
    embed = engine._model.embed

    def fail(rows: Any) -> torch.Tensor:
        engine._model.embed = embed  # type: ignore[method-assign]
        raise RuntimeError("no memory")

    engine._model.embed = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(RuntimeError, match="no memory"):
        await ask(engine, (IDS[0],) * 40, Embed())
    assert len((await ask(engine, TEXTS, Embed())).vectors) == 3


async def test_a_step_that_takes_too_long_makes_the_replica_unhealthy(engine: EmbeddingEngine):
    engine._step_began_s = -1e9
    with pytest.raises(EngineDead, match="a step has taken more than 60 s"):
        await engine.check()


async def test_an_engine_that_stops_cancels_what_waits(engine: EmbeddingEngine):
    asked = asyncio.create_task(ask(engine, (IDS[0],) * 500, Embed()))
    while not engine.stats().num_waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await engine.close()
    assert (await asked).finish is FinishReason.CANCELLED


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("1_Pooling/config.json", None, "set engine.pooling"),
        ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "asks for a pooling"),
        ("1_Pooling/config.json", "{", "cannot be read"),
        ("modules.json", [{"type": "sentence_transformers.models.Dense"}], "has a Dense"),
    ],
    ids=["none", "max", "broken", "dense"],
)
def test_a_checkpoint_that_does_not_say_how_to_pool_is_refused(
    tmp_path: Path, name: str, content: Any, words: str
):
    folder = save(tmp_path / "model", BertModel(BertConfig(**SIZES)), pooling_mode_cls_token=True)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ModelLoadError, match=words):
        made(folder)


async def test_files_say_whether_vectors_are_normalised_and_how_long_inputs_are(tmp_path: Path):
    folder = save(tmp_path / "model", BertModel(BertConfig(**SIZES)), pooling_mode_cls_token=True)
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling")]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 5}))
    engine = made(folder)
    found = numbers((await ask(engine, TEXTS[1:2], Embed())).vectors[0])
    torch.testing.assert_close(found, alone(folder, IDS[1], "cls", is_normal=False), atol=1e-5, rtol=1e-4)
    with pytest.raises(InvalidCall, match="at most 5"):
        await ask(engine, TEXTS, Embed())
    await engine.close()
