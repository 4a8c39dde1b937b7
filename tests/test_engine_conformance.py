"""One contract, every engine: the same model and the same expert tokens, held against plain forward passes.

vLLM is tested where it is installed; `make test` makes an environment of its own for it.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch

from experts.engine.base import Call, Engine, FinishReason, Resumed
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.make import make_engine
from experts.errors import ContextLengthExceeded, EngineDead, InvalidPrompt, TokenMismatch
from experts.token import ExpertToken
from tests.engine_world import ids_of, prompt_ids, question, run, text_of, token, wins_after
from tests.reference import ReferenceModel
from tests.tiny_models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny_tokenizers import byte_level

CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=8, num_threads=1),
    "vllm": VllmConfig(
        dtype="float32", max_streams=8, max_batch_tokens=64, cache_bytes=2**24, enforce_eager=True
    ),
}
EPOCHS = itertools.count(1)
HEAD_DIM = 32  # the least that every engine takes

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # of vLLM's own code
]


@pytest.fixture(
    scope="module",
    params=[
        "transformers",
        pytest.param("vllm", marks=pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")),
    ],
)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, byte_level(), head_dim=HEAD_DIM)
    return folder


@pytest.fixture(scope="module")
def reference(folder):
    return ReferenceModel(folder)


@asynccontextmanager
async def started(kind: str, folder: Path) -> AsyncIterator[Engine]:
    engine = make_engine(ModelSource(path=str(folder)), CONFIGS[kind])
    try:
        yield engine
    finally:
        await engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_engine(kind, folder):
    async with started(kind, folder) as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def engine(shared_engine):
    """Started once, for that takes long; without experts at the beginning of each test."""
    await install(shared_engine, [])
    return shared_engine


async def install(engine: Engine, tokens: list[ExpertToken]) -> None:
    await engine.install(next(EPOCHS), tokens)


async def test_greedy_text_in_a_batch_is_token_for_token_that_of_plain_forward_passes(engine, reference):
    texts = [f"question {i}: {'x' * i} é?" for i in range(24)]
    answers = await asyncio.gather(*(run(engine, text, max_tokens=16) for text in texts))
    for text, chunks in zip(texts, answers, strict=True):
        ids, _ = reference.write(question(text), "", 16)
        assert ids_of(chunks) == ids
        assert text_of(chunks) == reference.text(ids)


async def test_what_was_written_is_continued(engine, reference):
    written = "The answer is"
    ids, _ = reference.write(question("hello"), written, 8)
    assert ids_of(await run(engine, written=written, max_tokens=8)) == ids


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
async def test_an_expert_takes_over_at_the_very_step_it_wins(engine, reference, num_tokens):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", num_tokens))])
    chunks = await run(engine, allowed=("law",))
    assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "law")
    assert chunks[-1].probability == pytest.approx(1.0)
    assert ids_of(chunks) == reference.write(question("hello"), "", num_tokens)[0]


async def test_only_allowed_and_known_experts_win_request_by_request(engine, reference):
    vector = wins_after(reference, "hello", 0)
    await install(engine, [token(reference, "law", vector), token(reference, "chem", 0.9 * vector)])
    outcomes = await asyncio.gather(
        *(run(engine, allowed=names) for names in [("law", "chem"), ("chem",), ("chem", "unknown"), ()])
    )
    assert [chunks[-1].expert for chunks in outcomes] == ["law", "chem", "chem", None]
    biased = await run(engine, allowed=("law", "chem"), bias={"chem": 500.0})
    assert biased[-1].expert == "chem"


async def test_sampling_settings_never_route(engine, reference):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", 0))])
    hot = await asyncio.gather(
        *(run(engine, allowed=("law",), temperature=5.0, seed=seed, top_k=3, top_p=0.5) for seed in range(8))
    )
    assert {chunks[-1].expert for chunks in hot} == {"law"}


async def test_only_at_start_masks_every_later_position(engine, reference):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", 3))])
    chunks = await run(engine, allowed=("law",), only_at_start=True)
    assert chunks[-1].finish is FinishReason.LENGTH
    assert len(ids_of(chunks)) == 12


async def test_a_probe_returns_the_distribution_and_writes_nothing(engine, reference):
    vector = wins_after(reference, "hello", 0)
    await install(engine, [token(reference, "law", vector), token(reference, "chem", -vector)])
    (chunk,) = await run(engine, allowed=("law", "chem"), probe=True)
    assert chunk.distribution == pytest.approx({"law": 1.0, "chem": 0.0}, abs=1e-6)
    assert (chunk.text, chunk.token_ids) == ("", ())
    (chunk,) = await run(engine, allowed=("chem",), probe=True)
    assert chunk.distribution is not None
    assert set(chunk.distribution) == {"chem"}


async def test_probabilities_are_those_of_one_softmax_over_words_and_allowed_experts(engine, reference):
    here = reference.logits(prompt_ids(reference, "hello"))
    vector = wins_after(reference, "hello", 0) / 1000 * float(here.max() + 1.0)  # scores one above the best
    await install(engine, [token(reference, "law", vector), token(reference, "chem", vector, bias=-2.5)])
    law, chem = here.max() + 1.0, here.max() + 1.0 - 2.5
    both = torch.cat([here, torch.stack([law, chem + 0.5])]).softmax(dim=-1)[-2:].tolist()
    asked: dict[str, Any] = {"allowed": ("law", "chem"), "bias": {"chem": 0.5}}
    (probed,) = await run(engine, probe=True, **asked)
    assert probed.distribution == pytest.approx({"law": both[0], "chem": both[1]}, rel=1e-3)
    handed_over = (await run(engine, **asked))[-1]
    assert handed_over.expert == "law"
    assert handed_over.probability == pytest.approx(both[0], rel=1e-3)
    alone = torch.cat([here, law[None]]).softmax(dim=-1)[-1].item()
    assert (await run(engine, allowed=("law",)))[-1].probability == pytest.approx(alone, rel=1e-3)


async def test_a_prompt_read_in_several_steps_is_decided_at_its_end(engine, reference):
    """Where a piece of it ends the model has an opinion too, and nobody asked for it."""
    text = "a long question " * 12
    await install(engine, [token(reference, "law", wins_after(reference, text, 2))])
    ids, _ = reference.write(question(text), "", 2)
    answers = await asyncio.gather(
        *(run(engine, text, allowed=("law",), seed=seed, temperature=1e-6 * seed) for seed in range(3)),
        *(run(engine, text, allowed=(), temperature=1.0, seed=9) for _ in range(2)),
    )
    assert [(ids_of(chunks), chunks[-1].expert) for chunks in answers[:3]] == [(ids, "law")] * 3
    assert ids_of(answers[3]) == ids_of(answers[4])


async def test_a_prompt_read_in_several_steps_disturbs_none_that_may_hand_over(engine, reference):
    """Regression: a line of logits for the unread prompt, and an engine that stopped for good."""
    await install(engine, [token(reference, "law", torch.zeros(HIDDEN_SIZE), bias=-1e6)])
    ids, _ = reference.write(question("hello"), "", 60)
    async with aclosing(
        engine.generate(
            Call("r", messages=question("hello"), temperature=0.0, max_tokens=60, allowed=("law",))
        )
    ) as stream:
        chunks = [await anext(stream)]
        prompts = [f"{n} is long " * 18 for n in range(6)]
        long = [asyncio.create_task(run(engine, text, allowed=("law",))) for text in prompts]
        chunks += [chunk async for chunk in stream]
        await asyncio.gather(*long)
    assert (ids_of(chunks), chunks[-1].expert) == (ids, None)


async def test_installing_leaves_requests_in_flight_alone(engine, reference):
    expected, _ = reference.write(question("hello"), "", 60)
    async with aclosing(
        engine.generate(Call("r", messages=question("hello"), temperature=0.0, max_tokens=60))
    ) as stream:
        chunks = [await anext(stream)]
        await install(engine, [token(reference, "law", wins_after(reference, "hello", 0))])
        chunks += [chunk async for chunk in stream]
    assert ids_of(chunks) == expected
    assert (await run(engine, allowed=("law",)))[-1].expert == "law"
    await install(engine, [])
    assert (await run(engine, allowed=("law",)))[-1].expert is None


async def test_a_token_of_another_meta_is_refused_and_the_table_stays(engine, reference):
    good = token(reference, "law", wins_after(reference, "hello", 0))
    await install(engine, [good])
    stranger = ExpertToken("chem", torch.randn(HIDDEN_SIZE), 0.0, "another", "0" * 16)
    with pytest.raises(TokenMismatch, match=r"chem.*another.*meta"):
        await engine.install(next(EPOCHS), [good, stranger])
    assert (await run(engine, allowed=("law",)))[-1].expert == "law"


async def test_a_seed_draws_the_same_text_alone_in_a_crowd_and_after_a_resumption(engine, reference):
    alone = await run(engine, temperature=1.0, seed=7)
    crowd = await asyncio.gather(*(run(engine, temperature=1.0, seed=seed) for seed in (7, 8, 9, 7)))
    assert [ids_of(crowd[0]), ids_of(crowd[3])] == [ids_of(alone)] * 2
    assert ids_of(crowd[1]) != ids_of(alone)
    ids = ids_of(alone)
    prompt = prompt_ids(reference, "hello")
    resumed = Call("r", ids=(*prompt, *ids[:5]), temperature=1.0, seed=7, position=5, max_tokens=len(ids) - 5)
    assert ids_of([chunk async for chunk in engine.generate(resumed)]) == ids[5:]


async def test_a_lost_answer_goes_on_in_the_very_tokens_it_would_have_had(engine):
    """Read anew as text they were cut otherwise, and a greedy answer took another turn."""
    settings: dict[str, Any] = {"temperature": 1.5, "seed": 11, "max_tokens": 24}
    whole = await run(engine, written="so ", **settings)
    fingerprint = whole[0].tokenizer
    assert fingerprint is not None
    assert all(chunk.tokenizer is None for chunk in whole[1:])
    for end in range(1, len(whole)):
        written = whole[:end]
        text, ids = text_of(written), tuple(ids_of(written))
        resumed = Resumed(text, ids, fingerprint)
        rest = settings | {"max_tokens": 24 - len(ids), "position": len(ids)}
        again = await run(engine, written="so ", resumed=resumed, **rest)
        assert ids_of(again) == ids_of(whole)[len(ids) :]
        assert text_of(again) == text_of(whole)[len(text) :]


async def test_tokens_of_another_tokenizer_are_read_as_text(engine):
    by_text = await run(engine, written="so far")
    foreign = await run(engine, written="so", resumed=Resumed(" far", (1, 2, 3), "another"))
    assert ids_of(foreign) == ids_of(by_text)


async def test_top_k_of_one_and_a_tiny_top_p_are_greedy(engine):
    greedy = ids_of(await run(engine))
    assert ids_of(await run(engine, temperature=2.0, top_k=1)) == greedy
    assert ids_of(await run(engine, temperature=2.0, top_p=1e-6)) == greedy


async def test_extreme_settings_still_draw_a_likely_token(engine):
    """Regression: quotients beyond float32, and a top_p that masked even the likeliest token."""
    greedy = ids_of(await run(engine))
    for temperature, top_p in ((1e-38, 1.0), (1e-46, 1.0), (1.0, 1e-50)):
        assert ids_of(await run(engine, temperature=temperature, top_p=top_p)) == greedy


async def test_a_probe_with_nobody_allowed_has_an_empty_distribution(engine):
    """Regression: it had none, which the router took for a failure."""
    (chunk,) = await run(engine, probe=True)
    assert chunk.distribution == {}


async def test_an_older_table_does_not_replace_a_newer_one(engine, reference):
    older, newer = next(EPOCHS), next(EPOCHS)
    await engine.install(newer, [token(reference, "law", wins_after(reference, "hello", 0))])
    await engine.install(older, [])
    assert (await run(engine, allowed=("law",)))[-1].expert == "law"


async def test_closing_a_stream_frees_its_slot_and_cache(engine):
    stream = engine.generate(Call("r", messages=question("hello"), temperature=0.0, max_tokens=200))
    await anext(stream)
    assert engine.stats().num_running == 1
    await stream.aclose()
    await run(engine, max_tokens=1)  # the loop sees the cancellation before it takes the next request
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.cache_use) == (0, 0, 0.0)


async def test_tokens_in_flight_are_prompts_and_what_may_still_be_written(engine):
    assert engine.stats().num_tokens_in_flight == 0
    stream = engine.generate(Call("r", messages=question("hello"), temperature=0.0, max_tokens=200))
    chunks = [await anext(stream)]
    num_prompt_tokens = chunks[0].num_prompt_tokens or 0
    while len(chunks) < 5:
        # The engine may be ahead of what it has sent.
        num_left = 200 - len(ids_of(chunks))
        assert num_prompt_tokens <= engine.stats().num_tokens_in_flight <= num_prompt_tokens + num_left
        chunks.append(await anext(stream))
    await stream.aclose()
    assert engine.stats().num_tokens_in_flight == 0
    async with asyncio.TaskGroup() as tasks:
        answers = [tasks.create_task(run(engine, "x" * number, max_tokens=20)) for number in range(12)]
    assert all(task.result()[-1].finish for task in answers)
    assert engine.stats().num_tokens_in_flight == 0


async def test_a_prompt_beyond_the_window_is_refused_and_a_long_answer_ends_at_it(engine):
    with pytest.raises(ContextLengthExceeded, match="255"):
        await run(engine, "word " * 300)
    chunks = await run(engine, "hello", max_tokens=10_000)
    assert chunks[-1].finish in (FinishReason.LENGTH, FinishReason.STOP)
    assert (chunks[0].num_prompt_tokens or 256) + len(ids_of(chunks)) <= 256


@pytest.mark.parametrize("ids", [(), (-1,), (10**6,)])
async def test_ids_that_no_text_has_are_refused(engine, ids):
    """Expert ids lie above the vocabulary, so a client that sends ids cannot name one."""
    with pytest.raises(InvalidPrompt, match="token ids"):
        async for _ in engine.generate(Call("r", ids=ids)):
            pass


async def test_no_expert_wins_inside_a_character(kind, tmp_path):
    """The bytes of a character have one author: an expert could not go on from half of one."""
    save_tiny_llama(tmp_path / "meta", byte_level(), whole_characters=False, head_dim=HEAD_DIM)
    reference = ReferenceModel(tmp_path / "meta")
    ids, _ = reference.write(question("hello"), "", 12)
    inside = next(n for n in range(1, 12) if reference.text(ids[:n]).endswith("\ufffd"))
    async with started(kind, tmp_path / "meta") as engine:
        await install(engine, [token(reference, "law", wins_after(reference, "hello", inside))])
        chunks = await run(engine, allowed=("law",))
        assert len(ids_of(chunks)) > inside


async def test_a_closed_engine_says_so(kind, folder):
    async with started(kind, folder) as engine:
        stream = engine.generate(Call("r", messages=question("hello"), temperature=0.0, max_tokens=200))
        await anext(stream)
        await engine.check()
        await engine.close()
        rest = [chunk async for chunk in stream]
        assert rest[-1].finish is FinishReason.CANCELLED
        with pytest.raises(EngineDead):
            await engine.check()
        with pytest.raises(EngineDead):
            await run(engine)
