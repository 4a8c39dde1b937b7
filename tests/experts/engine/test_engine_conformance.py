"""Tests of the `Engine` contract, for each engine: its answers are compared with plain forward passes.

vLLM is tested if it is installed; `make test` creates an environment for it.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio
import torch

from experts.engine.base import Engine
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.engine.request import EngineRequest, Resumed
from experts.engine.routing_report import Candidates, ShadowWin
from experts.engine.tasks import Detokenize, Task, Tokenize, TokenizedPrompt
from experts.errors import ContextLengthExceeded, EngineDead, InvalidPrompt, TokenMismatch
from experts.shadow import ShadowToken
from experts.text.decoder import TokenDecoder, unfinished
from experts.token import ExpertToken
from tests.support.engine_world import (
    ENGINE_KINDS,
    ids_of,
    prompt_ids,
    question,
    run,
    running,
    text_of,
    token,
    wins_after,
)
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.tokenizers import byte_level

CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=8, num_threads=1),
    "vllm": VllmConfig(
        dtype="float32",
        max_streams=8,
        max_batch_tokens=64,
        cache_bytes=2**24,
        enforce_eager=True,
        extra={"block_size": 32},  # as short as a CPU takes, so that the prompts here fill some
    ),
}
TABLE_VERSIONS = itertools.count(1)
HEAD_DIM = 32  # the smallest that every engine takes

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(scope="module", params=ENGINE_KINDS)
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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_engine(kind, folder):
    async with running(CONFIGS[kind], folder) as engine:
        yield engine


@pytest_asyncio.fixture(loop_scope="module")
async def engine(shared_engine):
    """Started once, because that is slow; without experts at the beginning of each test."""
    await install(shared_engine, [])
    return shared_engine


async def install(engine: Engine, tokens: list[ExpertToken], shadows: Sequence[ShadowToken] = ()) -> None:
    await engine.install(next(TABLE_VERSIONS), tokens, shadows)


async def test_greedy_answers_in_a_batch_equal_plain_forward_passes(engine, reference):
    texts = [f"question {i}: {'x' * i} é?" for i in range(24)]
    answers = await asyncio.gather(*(run(engine, text, max_tokens=16) for text in texts))
    for text, chunks in zip(texts, answers, strict=True):
        ids, _ = reference.write(question(text), "", 16)
        assert ids_of(chunks) == ids
        assert text_of(chunks) == reference.text(ids)


async def test_written_text_is_continued(engine, reference):
    written = "The answer is"
    ids, _ = reference.write(question("hello"), written, 8)
    assert ids_of(await run(engine, written=written, max_tokens=8)) == ids


@pytest.mark.parametrize("num_tokens", [0, 1, 5])
async def test_an_expert_takes_over_at_the_step_where_it_wins(engine, reference, num_tokens):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", num_tokens))])
    chunks = await run(engine, allowed=("law",))
    assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "law")
    assert chunks[-1].probability == pytest.approx(1.0)
    assert ids_of(chunks) == reference.write(question("hello"), "", num_tokens)[0]


async def test_only_experts_that_the_request_allows_can_win(engine, reference):
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


async def test_probabilities_are_from_one_softmax_over_words_and_allowed_experts(engine, reference):
    here = reference.logits(prompt_ids(reference, "hello"))
    # Its logit is the best word's plus 1.
    vector = wins_after(reference, "hello", 0) / 1000 * float(here.max() + 1.0)
    await install(engine, [token(reference, "law", vector), token(reference, "chem", vector, bias=-2.5)])
    law, chem = here.max() + 1.0, here.max() + 1.0 - 2.5
    both = torch.cat([here, torch.stack([law, chem + 0.5])]).softmax(dim=-1)[-2:].tolist()
    options: dict[str, Any] = {"allowed": ("law", "chem"), "bias": {"chem": 0.5}}
    (probed,) = await run(engine, probe=True, **options)
    assert probed.distribution == pytest.approx({"law": both[0], "chem": both[1]}, rel=1e-3)
    handed_over = (await run(engine, **options))[-1]
    assert handed_over.expert == "law"
    assert handed_over.probability == pytest.approx(both[0], rel=1e-3)
    alone = torch.cat([here, law[None]]).softmax(dim=-1)[-1].item()
    assert (await run(engine, allowed=("law",)))[-1].probability == pytest.approx(alone, rel=1e-3)


async def test_a_prompt_prefilled_in_several_steps_is_decided_at_its_end(engine, reference):
    """The logits at the end of an earlier piece must not route."""
    text = "a long question " * 12
    await install(engine, [token(reference, "law", wins_after(reference, text, 2))])
    ids, _ = reference.write(question(text), "", 2)
    answers = await asyncio.gather(
        *(run(engine, text, allowed=("law",), seed=seed, temperature=1e-6 * seed) for seed in range(3)),
        *(run(engine, text, allowed=(), temperature=1.0, seed=9) for _ in range(2)),
    )
    assert [(ids_of(chunks), chunks[-1].expert) for chunks in answers[:3]] == [(ids, "law")] * 3
    assert ids_of(answers[3]) == ids_of(answers[4])


async def test_a_prompt_prefilled_in_several_steps_does_not_disturb_other_requests(engine, reference):
    """Regression: the extra row of logits for an incomplete prefill stopped the engine."""
    await install(engine, [token(reference, "law", torch.zeros(HIDDEN_SIZE), bias=-1e6)])
    ids, _ = reference.write(question("hello"), "", 60)
    async with aclosing(
        engine.generate(
            EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=60, allowed=("law",))
        )
    ) as stream:
        chunks = [await anext(stream)]
        prompts = [f"{n} is long " * 18 for n in range(6)]
        long = [asyncio.create_task(run(engine, text, allowed=("law",))) for text in prompts]
        chunks += [chunk async for chunk in stream]
        await asyncio.gather(*long)
    assert (ids_of(chunks), chunks[-1].expert) == (ids, None)


async def test_installing_experts_does_not_affect_running_requests(engine, reference):
    expected, _ = reference.write(question("hello"), "", 60)
    async with aclosing(
        engine.generate(EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=60))
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
    foreign = ExpertToken("chem", torch.randn(HIDDEN_SIZE), 0.0, "another", "0" * 16)
    with pytest.raises(TokenMismatch, match=r"chem.*another.*meta"):
        await engine.install(next(TABLE_VERSIONS), [good, foreign])
    assert (await run(engine, allowed=("law",)))[-1].expert == "law"


async def test_a_seed_gives_the_same_answer_alone_in_a_batch_and_after_a_resumption(engine, reference):
    alone = await run(engine, temperature=1.0, seed=7)
    batch = await asyncio.gather(*(run(engine, temperature=1.0, seed=seed) for seed in (7, 8, 9, 7)))
    assert [ids_of(batch[0]), ids_of(batch[3])] == [ids_of(alone)] * 2
    assert ids_of(batch[1]) != ids_of(alone)
    ids = ids_of(alone)
    prompt = prompt_ids(reference, "hello")
    resumed = EngineRequest(
        "r", ids=(*prompt, *ids[:5]), temperature=1.0, seed=7, position=5, max_tokens=len(ids) - 5
    )
    assert ids_of([chunk async for chunk in engine.generate(resumed)]) == ids[5:]


async def test_a_resumed_answer_continues_with_the_same_tokens(engine):
    """Regression: its text, tokenized again, gave other tokens, and so another continuation."""
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


async def test_ids_of_another_tokenizer_are_replaced_by_their_text(engine):
    by_text = await run(engine, written="so far")
    foreign = await run(engine, written="so", resumed=Resumed(" far", (1, 2, 3), "another"))
    assert ids_of(foreign) == ids_of(by_text)


async def test_top_k_of_one_and_a_tiny_top_p_are_greedy(engine):
    greedy = ids_of(await run(engine))
    assert ids_of(await run(engine, temperature=2.0, top_k=1)) == greedy
    assert ids_of(await run(engine, temperature=2.0, top_p=1e-6)) == greedy


async def test_extreme_settings_still_sample_a_likely_token(engine):
    """Regression: logits / temperature overflowed, and a tiny top_p masked even the most likely token."""
    greedy = ids_of(await run(engine))
    for temperature, top_p in ((1e-38, 1.0), (1e-46, 1.0), (1.0, 1e-50)):
        assert ids_of(await run(engine, temperature=temperature, top_p=top_p)) == greedy


async def test_a_probe_without_allowed_experts_has_an_empty_distribution(engine):
    """Regression: it had None, which the router took for a failure."""
    (chunk,) = await run(engine, probe=True)
    assert chunk.distribution == {}


async def test_an_older_table_does_not_replace_a_newer_one(engine, reference):
    older, newer = next(TABLE_VERSIONS), next(TABLE_VERSIONS)
    await engine.install(newer, [token(reference, "law", wins_after(reference, "hello", 0))])
    await engine.install(older, [])
    assert (await run(engine, allowed=("law",)))[-1].expert == "law"


async def test_closing_a_stream_frees_its_slot_and_cache(engine):
    stream = engine.generate(EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=200))
    await anext(stream)
    assert engine.stats().num_running == 1
    await stream.aclose()
    await run(engine, max_tokens=1)  # the loop handles the cancellation before the next request
    stats = engine.stats()
    assert (stats.num_running, stats.num_waiting, stats.cache_use) == (0, 0, 0.0)


async def test_tokens_in_flight_are_prompts_and_tokens_that_may_still_be_generated(engine):
    assert engine.stats().num_tokens_in_flight == 0
    stream = engine.generate(EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=200))
    chunks = [await anext(stream)]
    num_prompt_tokens = chunks[0].num_prompt_tokens or 0
    while len(chunks) < 5:
        # The engine may have generated more than it has sent.
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
    with pytest.raises(ContextLengthExceeded, match="256 tokens"):
        await run(engine, "word " * 300)
    chunks = await run(engine, "hello", max_tokens=10_000)
    assert chunks[-1].finish in (FinishReason.LENGTH, FinishReason.STOP)
    assert (chunks[0].num_prompt_tokens or 256) + len(ids_of(chunks)) <= 256


@pytest.mark.parametrize("ids", [(), (-1,), (10**6,)])
async def test_ids_outside_the_vocabulary_are_refused(engine, ids):
    """So a client that sends ids cannot send that of an expert, which lies above the vocabulary."""
    with pytest.raises(InvalidPrompt, match="token ids"):
        async for _ in engine.generate(EngineRequest("r", ids=ids)):
            pass


async def test_no_expert_wins_inside_a_character(kind, tmp_path):
    """An expert could not continue from half a character."""
    save_tiny_llama(tmp_path / "meta", byte_level(), whole_characters=False, head_dim=HEAD_DIM)
    reference = ReferenceModel(tmp_path / "meta")
    ids, _ = reference.write(question("hello"), "", 40)
    bytes_of = TokenDecoder(byte_level().backend_tokenizer).bytes_of
    inside = next(n for n in range(1, 40) if unfinished(b"".join(map(bytes_of, ids[:n]))))
    async with running(CONFIGS[kind], tmp_path / "meta") as engine:
        await install(engine, [token(reference, "law", wins_after(reference, "hello", inside))])
        chunks = await run(engine, allowed=("law",), max_tokens=inside + 1)
        assert len(ids_of(chunks)) > inside


async def test_a_closed_engine_fails_its_check_and_its_requests(kind, folder):
    async with running(CONFIGS[kind], folder) as engine:
        stream = engine.generate(
            EngineRequest("r", messages=question("hello"), temperature=0.0, max_tokens=200)
        )
        await anext(stream)
        await engine.check()
        await engine.close()
        rest = [chunk async for chunk in stream]
        assert rest[-1].finish is FinishReason.CANCELLED
        with pytest.raises(EngineDead):
            await engine.check()
        with pytest.raises(EngineDead):
            await run(engine)


def candidates_in(chunks: list[EngineChunk]) -> list[Candidates]:
    reports = [chunk.routing for chunk in chunks if chunk.routing is not None]
    return [report.candidates for report in reports if report.candidates is not None]


def shadow_wins_in(chunks: list[EngineChunk]) -> list[ShadowWin]:
    return [win for chunk in chunks if chunk.routing for win in chunk.routing.shadow_wins]


async def test_a_hand_over_reports_the_best_word_and_the_likeliest_experts(engine, reference):
    here = reference.logits(prompt_ids(reference, "hello"))
    vector = wins_after(reference, "hello", 0) / 1000 * float(here.max() + 1.0)
    biases = {"law": 0.0, "chem": -2.5, **{f"e{i}": -3.0 - i for i in range(5)}}
    await install(engine, [token(reference, name, vector, bias) for name, bias in biases.items()])
    scores = torch.cat([here, here.max() + 1.0 + torch.tensor(list(biases.values()))])
    logprobs = scores.log_softmax(dim=-1).tolist()[len(here) :]
    chunks = await run(engine, allowed=tuple(biases), reports_start=True)
    (found,) = candidates_in(chunks)
    assert chunks[-1].routing is not None
    assert [name for name, _ in found.experts] == ["law", "chem", "e0", "e1", "e2"]
    assert [logprob for _, logprob in found.experts] == pytest.approx(logprobs[:5], abs=1e-3)
    assert found.word == pytest.approx(logprobs[0] - 1.0, abs=1e-3)
    assert chunks[-1].probability == pytest.approx(math.exp(logprobs[0]), rel=1e-3)


async def test_the_first_decision_is_reported_if_the_request_asks(engine, reference):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", 3))])
    assert [chunk.routing for chunk in await run(engine, allowed=("law",), only_at_start=True)][0] is None
    chunks = await run(engine, allowed=("law",), only_at_start=True, reports_start=True)
    (found,) = candidates_in(chunks)
    assert chunks[0].routing is not None
    assert [name for name, _ in found.experts] == ["law"]
    assert found.experts[0][1] < found.word < 0


async def test_a_plain_answer_reports_nothing(engine, reference):
    await install(engine, [token(reference, "law", torch.zeros(HIDDEN_SIZE), bias=-1e6)])
    assert {chunk.routing for chunk in await run(engine, allowed=("law",))} == {None}


@pytest.mark.parametrize("num_tokens", [0, 3])
async def test_a_shadow_never_wins_and_the_place_where_it_would_is_reported_once(
    engine, reference, num_tokens
):
    vector = wins_after(reference, "hello", num_tokens)
    await install(engine, [], [ShadowToken(token(reference, "law", vector))])
    chunks = await run(engine, shadows=("law",), position=7)
    assert ids_of(chunks) == reference.write(question("hello"), "", 12)[0]
    (win,) = shadow_wins_in(chunks)
    assert win == ShadowWin("law", None, win.probability, 7 + num_tokens)
    assert win.probability == pytest.approx(1.0)
    assert shadow_wins_in(await run(engine)) == shadow_wins_in(await run(engine, shadows=("chem",))) == []


async def test_the_route_is_the_same_with_and_without_shadows(engine, reference):
    tokens = [
        token(reference, "law", wins_after(reference, "hello", 2)),
        token(reference, "chem", 0.9 * wins_after(reference, "hello", 2)),
    ]
    options: dict[str, Any] = {"allowed": ("law", "chem"), "reports_start": True}
    options["shadows"] = ("s0", "s1", "s2")
    texts = ["hello", *(f"question {i}" for i in range(6))]
    await install(engine, tokens)
    without = [await run(engine, text, **options) for text in texts]
    strong = [10 * wins_after(reference, "hello", n) for n in (0, 1, 2)]
    shadows = [ShadowToken(token(reference, f"s{i}", vector)) for i, vector in enumerate(strong)]
    await install(engine, tokens, shadows)
    for text, before in zip(texts, without, strict=True):
        chunks = await run(engine, text, **options)
        assert ids_of(chunks) == ids_of(before)
        assert (chunks[-1].finish, chunks[-1].expert) == (before[-1].finish, before[-1].expert)
        assert chunks[-1].probability == before[-1].probability
        # On a busy machine one chunk may be of all steps, and then has those of the hand-over alone.
        assert candidates_in(chunks)[-1] == candidates_in(before)[-1]
    wins = {win.shadow: (win.over, win.position) for win in shadow_wins_in(await run(engine, **options))}
    assert wins == {"s0": (None, 0), "s1": (None, 1), "s2": ("law", 2)}


async def test_a_shadow_that_replaces_an_expert_competes_with_the_rest(engine, reference):
    vector = wins_after(reference, "hello", 2)
    await install(
        engine,
        [token(reference, "law", vector), token(reference, "chem", 0.5 * vector)],
        [
            ShadowToken(token(reference, "law-v2", 0.7 * vector), replaces="law"),
            ShadowToken(token(reference, "chem-v2", 0.7 * vector), replaces="chem"),
            ShadowToken(token(reference, "law-v3", 0.3 * vector), replaces="law"),
        ],
    )
    chunks = await run(engine, allowed=("law", "chem"), shadows=("law-v2", "chem-v2", "law-v3"))
    assert chunks[-1].expert == "law"
    (win,) = shadow_wins_in(chunks)
    assert win == ShadowWin("law-v2", "law", win.probability, 2)


async def test_a_shadow_has_the_bias_of_its_request(engine, reference):
    here = reference.logits(prompt_ids(reference, "hello"))
    vector = wins_after(reference, "hello", 0) / 1000 * float(here.max() - 1.0)
    await install(engine, [], [ShadowToken(token(reference, "law", vector))])
    assert shadow_wins_in(await run(engine, shadows=("law",), max_tokens=1)) == []
    (win,) = shadow_wins_in(await run(engine, shadows=("law",), max_tokens=1, bias={"law": 2.0}))
    expected = torch.cat([here, (here.max() + 1.0)[None]]).softmax(dim=-1)[-1].item()
    assert win.probability == pytest.approx(expected, rel=1e-3)


async def test_shadows_of_many_answers_in_one_batch_are_kept_apart(engine, reference):
    vector = wins_after(reference, "hello", 1)
    await install(engine, [], [ShadowToken(token(reference, "law", vector))])
    answers = await asyncio.gather(
        *(run(engine, shadows=("law",) if i % 2 else (), temperature=0.0) for i in range(8))
    )
    assert [len(shadow_wins_in(chunks)) for chunks in answers] == [0, 1] * 4


async def test_tokens_of_a_prompt_and_the_text_of_tokens_are_those_that_the_model_reads(engine, reference):
    expected = prompt_ids(reference, "hello")
    found = (await performed(engine, Tokenize(with_texts=True), messages=question("hello"))).tokenized
    assert found is not None
    assert (found.ids, len(found.texts or ())) == (tuple(expected), len(expected))
    ids = tuple(reference.tokenizer("hello").input_ids)
    plain = (await performed(engine, Tokenize(), text="hello")).tokenized
    assert plain == TokenizedPrompt(ids, None, found.max_model_len)
    chunk = await performed(engine, Detokenize(), ids=tuple(expected))
    assert chunk.text == reference.tokenizer.decode(expected)
    with pytest.raises(InvalidPrompt):
        await performed(engine, Detokenize(), ids=(10**9,))


async def performed(engine: Engine, task: Task, **prompt: Any) -> EngineChunk:
    (chunk,) = [chunk async for chunk in engine.generate(EngineRequest("r", task=task, **prompt))]
    assert chunk.finish is FinishReason.STOP
    return chunk


async def test_a_prompt_is_found_in_the_cache_only_with_the_same_salt(engine, reference):
    ids = tuple(random.Random(24).choices(range(20, 120), k=100))  # of no other test
    for salt in (None, "a", "b"):
        assert await num_cached(engine, ids, salt) == 0, salt
        assert await num_cached(engine, ids, salt) >= 64, salt
    request = EngineRequest("r", ids=ids, temperature=0.0, max_tokens=8, cache_salt="a")
    assert ids_of([chunk async for chunk in engine.generate(request)]) == reference.follow(list(ids), 8)[0]


async def test_a_resumed_answer_finds_only_what_its_own_salt_has_read(engine, reference):
    prompt = tuple(random.Random(25).choices(range(20, 120), k=100))
    tokenizer = (await anext(engine.generate(EngineRequest("r", ids=prompt, cache_salt="a")))).tokenizer
    own = reference.follow(list(prompt), 4)[0]
    resumed = Resumed(reference.tokenizer.decode(own), tuple(own), tokenizer)
    assert await num_cached(engine, prompt, "b", resumed=resumed) == 0
    assert await num_cached(engine, prompt, "a", resumed=resumed) >= 64


async def num_cached(engine: Engine, ids: tuple[int, ...], salt: str | None, **options: Any) -> int:
    """How many tokens of this prompt the engine does not compute."""
    request = EngineRequest("r", ids=ids, max_tokens=1, temperature=0.0, cache_salt=salt, **options)
    chunks = [chunk async for chunk in engine.generate(request)]
    return chunks[0].num_cached_tokens
