"""For each engine: an expert that takes over in place answers as PEFT does with its activated adapter, on
what the meta has computed."""

import asyncio
import json
import shutil
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from experts.engine.base import AdapterEngine
from experts.engine.chunk import FinishReason
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.engine.request import EngineRequest, Grammar, GrammarKind, Resumed, SamplingOptions
from experts.errors import ModelLoadError
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
from tests.tiny.activated_lora import ALLOWED, NUM_TOKENS, ActivatedLora, by_author, greedy
from tests.tiny.peft_adapters import save_peft_adapter

SETTINGS: dict[str, Any] = {"dtype": "float32", "max_streams": 16, "max_adapters": 4, "max_adapter_rank": 8}
# Short steps, so that prompts are prefilled in pieces while other requests decode and hand over.
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(**SETTINGS, max_batch_tokens=48, num_threads=1),
    "vllm": VllmConfig(
        **SETTINGS,
        max_batch_tokens=48,
        cache_bytes=2**24,
        enforce_eager=True,
        extra={"block_size": 32},  # as short as a CPU takes, so that the prompts here fill some
    ),
}
TEXTS = [f"{'word ' * (number % 7)}question {number}" for number in range(16)]
LONG_TEXT = "a question that fills several pages of the cache of keys and values"
WRITTEN_TEXT = "which law is this"  # the answer has the same tokens after it is sent as text
LATE = 3  # tokens of the meta before a hand-over in mid-answer

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(scope="module", params=ENGINE_KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def law(tmp_path_factory) -> ActivatedLora:
    return ActivatedLora.save(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def reference(law):
    return law.reference


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(kind, law):
    async with running(CONFIGS[kind], law.base) as engine:
        assert isinstance(engine, AdapterEngine)
        await engine.load_adapter("law", str(law.folder), "exact")
        yield engine


async def test_at_the_start_it_answers_as_peft_does(engine, reference, law):
    plain = greedy(reference.model, prompt_ids(reference, TEXTS[0]), reference.stop_ids)
    assert plain != law.answer(TEXTS[0])
    await engine.install(1, [law.always])
    answers = await asyncio.gather(*(run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED) for text in TEXTS))
    assert [by_author(chunks) for chunks in answers] == [([], law.answer(text)) for text in TEXTS]


async def test_in_mid_answer_it_answers_as_peft_does_from_the_last_token_on(engine, reference, law):
    texts = TEXTS[:8]
    names = [f"law-{number}" for number in range(len(texts))]
    vectors = [wins_after(reference, text, LATE) for text in texts]
    await engine.install(2, [token(reference, *pair) for pair in zip(names, vectors, strict=True)])
    answers = await asyncio.gather(
        *(
            run(engine, text, max_tokens=LATE + NUM_TOKENS, allowed=(name,), in_place={name: "law"})
            for name, text in zip(names, texts, strict=True)
        )
    )
    for text, chunks in zip(texts, answers, strict=True):
        found, ids = by_author(chunks)
        assert found == reference.write(question(text), "", LATE)[0]
        assert ids == law.greedy([*prompt_ids(reference, text), *found], alora_offsets=[1])


@pytest.mark.parametrize("num_before", [0, LATE])
async def test_a_call_of_the_expert_gives_the_same_text(engine, reference, num_before):
    text = WRITTEN_TEXT
    await engine.install(3, [token(reference, "law", wins_after(reference, text, num_before))])
    chunks = await run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED)
    found, ids = by_author(chunks)
    assert len(found) == num_before
    assert len(found) + len(ids) == NUM_TOKENS or chunks[-1].finish is FinishReason.STOP
    written = reference.text(found)
    called = {"adapter": "law", "written": written, "position": len(found)}
    assert ids_of(await run(engine, text, max_tokens=NUM_TOKENS - len(found), **called)) == ids
    # Its replica was lost after four tokens.
    fingerprint = chunks[0].tokenizer
    assert fingerprint is not None
    called |= {"resumed": Resumed(reference.text(ids[:4]), tuple(ids[:4]), fingerprint)}
    assert ids_of(await run(engine, text, max_tokens=len(ids) - 4, **called)) == ids[4:]


async def test_seeds_and_log_probabilities_are_those_of_a_call(engine, reference, law):
    await engine.install(4, [token(reference, "law", wins_after(reference, WRITTEN_TEXT, LATE))])
    options = {"temperature": 1.5, "seed": 7, "sampling": SamplingOptions(num_logprobs=2, min_p=0.01)}
    greedy_start = {"max_tokens": NUM_TOKENS, "temperature": 0.0, "sampling": options["sampling"]}
    chunks = await run(engine, WRITTEN_TEXT, **greedy_start, **ALLOWED)
    found, ids = by_author(chunks)
    called = {"adapter": "law", "written": reference.text(found), "position": len(found)}
    alone = await run(engine, WRITTEN_TEXT, **{**greedy_start, "max_tokens": len(ids)}, **called)
    logprobs = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.id for each in logprobs] == [*found, *ids]
    assert [each.logprob for each in logprobs[len(found) :]] == pytest.approx(
        [each.logprob for chunk in alone for each in chunk.logprobs], abs=1e-4
    )
    await engine.install(5, [law.always])
    _, drawn = by_author(await run(engine, WRITTEN_TEXT, **options, **ALLOWED))
    assert drawn == ids_of(await run(engine, WRITTEN_TEXT, **options, adapter="law"))


async def test_the_expert_is_bound_by_the_rules_of_the_request(engine, reference, law):
    """Counted over the whole answer, the part of the meta included."""
    await engine.install(6, [token(reference, "law", wins_after(reference, WRITTEN_TEXT, LATE))])
    rules = SamplingOptions(frequency_penalty=1.9, min_tokens=NUM_TOKENS - 1)
    chunks = await run(engine, WRITTEN_TEXT, max_tokens=NUM_TOKENS, sampling=rules, **ALLOWED)
    found, ids = by_author(chunks)
    assert NUM_TOKENS - 1 <= len(found) + len(ids) <= NUM_TOKENS
    left = SamplingOptions(frequency_penalty=1.9, min_tokens=NUM_TOKENS - 1 - len(found))
    called = {"adapter": "law", "written": reference.text(found), "position": len(found), "sampling": left}
    assert ids_of(await run(engine, WRITTEN_TEXT, max_tokens=NUM_TOKENS - len(found), **called)) == ids

    await engine.install(7, [law.always])
    choice = SamplingOptions(grammar=Grammar(GrammarKind.CHOICE, json.dumps(["yes", "no"])))
    assert text_of(await run(engine, WRITTEN_TEXT, sampling=choice, **ALLOWED)) in ("yes", "no")


async def test_the_chunks_say_who_writes_and_what_was_read(engine, reference, law):
    await engine.install(8, [law.always])
    first, second, *_ = await run(engine, "hello", reports_start=True, **ALLOWED)
    assert (first.expert, first.finish, first.text) == ("law", None, "")
    assert first.probability == pytest.approx(1.0)
    assert first.routing is not None
    assert first.routing.candidates is not None
    assert first.routing.candidates.experts[0][0] == "law"
    assert first.num_prompt_tokens == len(prompt_ids(reference, "hello"))
    assert second.num_prompt_tokens == len(law.invocation)
    assert second.tokenizer == first.tokenizer is not None


async def test_an_expert_whose_adapter_is_not_loaded_cannot_win(engine, reference, law):
    await engine.install(9, [law.always])
    chunks = await run(engine, "hello", allowed=("law",), in_place={"law": "missing"})
    assert text_of(chunks) == reference.text(reference.write(question("hello"), "", 12)[0])


async def test_a_probe_writes_nothing(engine, law):
    await engine.install(10, [law.always])
    [chunk] = await run(engine, "hello", probe=True, **ALLOWED)
    assert (chunk.finish, chunk.expert, chunk.token_ids) == (FinishReason.EXPERT, "law", ())


async def test_no_keys_of_an_adapter_are_read_as_those_of_the_base(engine, reference, law):
    """What the expert read and wrote fills several pages of the cache; the base gets exactly these tokens."""
    await engine.install(12, [law.always])
    _, ids = by_author(await run(engine, LONG_TEXT, max_tokens=64, **ALLOWED))
    collided = (*prompt_ids(reference, LONG_TEXT), *ids)
    assert await continued(engine, collided) == reference.follow(collided, 12)[0]


async def test_what_an_expert_reads_anew_stays_as_it_is_for_other_requests(engine, reference, law):
    """All share the blocks of the prompt: the expert's invocation begins in a complete one for some texts."""
    await engine.install(13, [law.always])
    for text in TEXTS[:4]:
        plain = reference.write(question(text), "", NUM_TOKENS)[0]
        for _ in range(2):
            answers = await asyncio.gather(
                run(engine, text, max_tokens=NUM_TOKENS),
                run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED),
                run(engine, text, max_tokens=NUM_TOKENS),
            )
            assert [ids_of(chunks) for chunks in answers] == [plain, law.answer(text), plain]


async def test_no_keys_of_an_adapter_are_read_as_if_it_had_begun_elsewhere(engine, reference, law):
    """The expert gets the tokens that it has written itself, now after the meta."""
    await engine.install(13, [law.always])
    _, ids = by_author(await run(engine, LONG_TEXT, max_tokens=64, **ALLOWED))
    collided = [*prompt_ids(reference, LONG_TEXT), *ids]
    found = await continued(engine, collided, written=" ", adapter="law")
    expected = law.greedy([*collided, *reference.tokenizer(" ")["input_ids"]], alora_offsets=[1])
    assert found == expected[:12]


async def continued(engine: AdapterEngine, ids: Any, **options: Any) -> list[int]:
    request = EngineRequest("r", ids=tuple(ids), temperature=0.0, max_tokens=12, **options)
    return ids_of([chunk async for chunk in engine.generate(request)])


async def test_a_hand_over_keeps_the_salt_of_its_request(engine, law):
    await engine.install(15, [law.always])
    options = {"max_tokens": 64, "cache_salt": "a"}
    _, ids = by_author(await run(engine, LONG_TEXT, **options, **ALLOWED))
    collided = (*prompt_ids(law.reference, LONG_TEXT), *ids, 30)
    found = {}
    for salt in ("b", "a"):
        request = EngineRequest(
            "r", ids=collided, temperature=0.0, max_tokens=1, adapter="law", cache_salt=salt
        )
        found[salt] = [chunk async for chunk in engine.generate(request)][0].num_cached_tokens
    assert found["b"] == 0
    assert found["a"] >= 32


async def test_an_expert_that_is_not_read_any_more_leaves_nothing_behind(engine, law):
    await engine.install(14, [law.always])
    request = EngineRequest("r", messages=question(TEXTS[0]), temperature=0.0, max_tokens=64, **ALLOWED)
    for _ in range(6):  # more than there are slots
        async with aclosing(engine.generate(request)) as stream:
            while (await anext(stream)).expert is None:
                pass
            await anext(stream)
            await engine.load_adapter("law", str(law.folder), "exact")  # the old one stays for the stream
    assert by_author(await run(engine, TEXTS[0], max_tokens=NUM_TOKENS, **ALLOWED))[1] == law.answer(TEXTS[0])


async def test_an_ordinary_adapter_applies_from_the_last_token_on(engine, tmp_path, reference, law):
    shutil.copytree(law.folder, tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"alora_invocation_tokens": None}))
    await engine.load_adapter("plain", str(tmp_path), "approximate")
    await engine.install(15, [law.always])
    chunks = await run(engine, max_tokens=NUM_TOKENS, allowed=("law",), in_place={"law": "plain"})
    ids = law.greedy(prompt_ids(reference, "hello"), alora_offsets=[1])
    assert by_author(chunks) == ([], ids)
    assert ids_of(await run(engine, max_tokens=NUM_TOKENS, adapter="plain")) == ids


async def test_an_adapter_has_to_be_trained_for_what_is_asked_of_it(engine, tmp_path, law):
    save_peft_adapter(law.base, tmp_path)
    with pytest.raises(ModelLoadError, match="is an ordinary LoRA.*set adapter.invocation: approximate"):
        await engine.load_adapter("plain", str(tmp_path), "exact")
    with pytest.raises(ModelLoadError, match="is an activated LoRA.*has no effect; remove it"):
        await engine.load_adapter("other", str(law.folder), "approximate")
