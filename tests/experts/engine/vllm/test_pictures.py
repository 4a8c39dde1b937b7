"""Pictures in messages, in vLLM: what the model's own library makes of them, with and without routing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import VllmConfig
from experts.engine.request import ChatOptions, EngineRequest, Resumed
from experts.engine.tasks import Tokenize
from experts.errors import ContextLengthExceeded, InvalidPrompt
from experts.token import ExpertToken
from tests.support.engine_world import ids_of, needs_vllm, running, text_of
from tests.tiny.seeing import NUM_PICTURE_TOKENS, SeeingReference, look, picture, save_seeing

CONFIG = VllmConfig(dtype="float32", max_streams=4, cache_bytes=2**24, enforce_eager=True, images=True)
RED, BLUE = picture("red"), picture("blue", (20, 50))
QUESTION = look("what is ", RED, " beside ", BLUE)
OTHERS = (look("what is ", BLUE, " beside ", RED), look(RED, "iron?"), look("hello"))
NUM_TOKENS = 12

pytestmark = [
    needs_vllm,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_seeing(folder)
    return folder


@pytest.fixture(scope="module")
def reference(folder: Path) -> SeeingReference:
    return SeeingReference(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(folder: Path) -> AsyncIterator[Any]:
    async with running(CONFIG, folder) as engine:
        yield engine


async def ask(engine: Any, messages: Any = QUESTION, **options: Any) -> list[EngineChunk]:
    settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": NUM_TOKENS, **options}
    return [chunk async for chunk in engine.generate(EngineRequest("r", messages=messages, **settings))]


async def test_answers_are_those_of_the_models_own_library(engine: Any, reference: SeeingReference):
    questions = (QUESTION, *OTHERS)
    answers = await asyncio.gather(*(ask(engine, question) for question in questions))
    for question, chunks in zip(questions, answers, strict=True):
        assert chunks[0].num_prompt_tokens == len(reference.prompt(question))
        assert ids_of(chunks) == reference.write(question, NUM_TOKENS)
    assert len({text_of(chunks) for chunks in answers}) == len(questions)


async def test_an_answer_continues_with_the_pictures_at_hand(engine: Any, reference: SeeingReference):
    """On another replica of the same model, and as an expert that goes on where a meta has begun."""
    whole = await ask(engine)
    ids = tuple(ids_of(whole))
    tokenizer = whole[0].tokenizer
    assert tokenizer is not None
    begun = reference.text(ids[:5])
    rest = await ask(
        engine, resumed=Resumed(begun, ids[:5], tokenizer), position=5, max_tokens=NUM_TOKENS - 5
    )
    assert ids_of(rest) == list(ids[5:])
    written = await ask(engine, written="Hello! ", position=3)
    assert ids_of(written) == reference.write(QUESTION, NUM_TOKENS, "Hello! ")
    other = await ask(engine, OTHERS[0], written="Hello! ", position=3)
    assert text_of(other) != text_of(written)


async def test_a_meta_that_sees_hands_over(engine: Any, reference: SeeingReference):
    ids = reference.write(QUESTION, 3)
    law = ExpertToken("law", reference.wins_after(QUESTION, ids), 0.0, "meta", reference.fingerprint)
    await engine.install(1, [law])
    num_prompt_tokens = len(reference.prompt(QUESTION))
    chunks = await ask(engine, allowed=("law",), windows={"law": num_prompt_tokens + 1})
    assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "law")
    assert ids_of(chunks) == ids
    narrow = await ask(engine, allowed=("law",), windows={"law": num_prompt_tokens})
    assert ids_of(narrow) == reference.write(QUESTION, NUM_TOKENS)


async def test_every_token_of_a_picture_counts(engine: Any):
    task = Tokenize(add_special_tokens=True, with_texts=True)
    bare, seen = [
        (await ask(engine, messages, task=task))[0].tokenized
        for messages in (look("hello"), look(RED, "hello"))
    ]
    assert seen
    assert bare
    assert seen.texts
    assert len(seen.ids) - len(bare.ids) == NUM_PICTURE_TOKENS
    assert seen.texts.count("<image>") == NUM_PICTURE_TOKENS - 3
    album = look("hello", *[RED] * 40)
    with pytest.raises(ContextLengthExceeded) as caught:
        await ask(engine, album)
    assert caught.value.num_tokens == len(bare.ids) + 40 * NUM_PICTURE_TOKENS


async def test_a_request_that_ends_early_leaves_its_picture_usable(engine: Any, reference: SeeingReference):
    question = look(picture("green"), "what?")
    preparing = asyncio.create_task(ask(engine, question))
    await asyncio.sleep(0)
    preparing.cancel()
    stream = engine.generate(EngineRequest("r", messages=question, temperature=0.0))
    await anext(stream)
    await stream.aclose()
    assert engine.stats().num_running == 0
    assert ids_of(await ask(engine, question)) == reference.write(question, NUM_TOKENS)


async def test_text_that_spells_a_placeholder_is_no_picture(engine: Any):
    plain, spelled = [
        (await ask(engine, look(text, RED), max_tokens=1))[0].num_prompt_tokens for text in ("Q", "<image>")
    ]
    assert plain is not None
    assert spelled is not None
    assert spelled > plain
    assert (await ask(engine, look("<image>"), max_tokens=1))[0].num_prompt_tokens == (
        spelled - NUM_PICTURE_TOKENS
    )


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}, "picture 1 cannot be"),
        ({"type": "image_url", "image_url": {"url": "http://127.0.0.1/a.png"}}, "not a picture in a data"),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            "cannot read input_audio",
        ),
    ],
)
async def test_what_is_not_a_picture_is_refused(engine: Any, part: dict[str, Any], reason: str):
    with pytest.raises(InvalidPrompt, match=reason):
        await ask(engine, ({"role": "user", "content": [part]},))


@pytest.mark.parametrize("activation", [None, "<|im_start|>assistant\n"], ids=["ordinary", "activated"])
async def test_adapters_read_pictures(folder: Path, tmp_path: Path, activation: str | None):
    """At the start of an answer, after another writer, and on another replica; beside the base."""
    base, adapted = SeeingReference(folder), SeeingReference(folder)
    adapted.add_adapter(tmp_path, seed=1, activation=activation)
    config = CONFIG.model_copy(update={"max_adapters": 1})
    async with running(config, folder) as engine:
        await engine.load_adapter("eye", str(tmp_path))
        whole, plain, written = await asyncio.gather(
            ask(engine, adapter="eye"), ask(engine), ask(engine, adapter="eye", written="Hello! ", position=3)
        )
        assert ids_of(plain) == base.write(QUESTION, NUM_TOKENS)
        assert ids_of(whole) == adapted.write(QUESTION, NUM_TOKENS) != ids_of(plain)
        assert ids_of(written) == adapted.write(QUESTION, NUM_TOKENS, "Hello! ")
        ids, tokenizer = tuple(ids_of(whole)), whole[0].tokenizer
        assert tokenizer is not None
        resumed = Resumed(adapted.text(ids[:5]), ids[:5], tokenizer)
        rest = await ask(engine, adapter="eye", resumed=resumed, position=5, max_tokens=NUM_TOKENS - 5)
        assert ids_of(rest) == list(ids[5:])


async def test_a_prompt_with_pictures_is_not_cut(engine: Any):
    with pytest.raises(InvalidPrompt, match="truncate_prompt_tokens"):
        await ask(engine, chat=ChatOptions(truncate_prompt_tokens=8))
