"""An expert that takes over in place answers as PEFT does with its activated adapter, on the meta's cache."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from transformers import MistralConfig, MistralForCausalLM

from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.config import ModelSource, TransformersConfig
from experts.engine.factory import make_engine
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest, Resumed, SamplingOptions
from experts.errors import ModelLoadError
from tests.support.engine_world import (
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
from tests.tiny.models import save_tiny_llama
from tests.tiny.peft_adapters import save_peft_adapter
from tests.tiny.tokenizers import byte_level

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Short steps, so that prompts are prefilled in pieces while other requests decode and hand over.
CONFIG = TransformersConfig(
    dtype="float32", max_streams=16, max_batch_tokens=48, max_adapters=4, max_adapter_rank=8, num_threads=1
)
INVOCATION = "<|im_start|>assistant\n"
ALLOWED: dict[str, Any] = {"allowed": ("law",), "in_place": {"law": "law"}}
NUM_TOKENS = 16
TEXTS = [f"{'word ' * (number % 7)}question {number}" for number in range(16)]
LATE = 3  # tokens of the meta before a hand-over in mid-answer


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "base"
    save_tiny_llama(folder, byte_level())
    return folder


@pytest.fixture(scope="module")
def reference(base):
    return ReferenceModel(base)


@pytest.fixture(scope="module")
def invocation(reference) -> list[int]:
    ids: list[int] = reference.tokenizer(INVOCATION, add_special_tokens=False)["input_ids"]
    return ids


@pytest.fixture(scope="module")
def law(base, tmp_path_factory, invocation) -> tuple[Path, Any]:
    """An activated adapter: its folder, and PEFT's model."""
    folder = tmp_path_factory.mktemp("adapters") / "law"
    settings = {"target_modules": "all-linear", "r": 8, "alora_invocation_tokens": invocation}
    return folder, save_peft_adapter(base, folder, **settings)


@pytest.fixture(scope="module")
def expected(reference, law) -> list[list[int]]:
    """PEFT's answers to TEXTS."""
    return [greedy(law[1], prompt_ids(reference, text), reference.stop_ids) for text in TEXTS]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(base, law):
    engine = make_engine(ModelSource(path=str(base)), CONFIG)
    assert isinstance(engine, TransformersEngine)
    await engine.load_adapter("law", str(law[0]), "exact")
    yield engine
    await engine.close()


@torch.no_grad()
def greedy(model: Any, ids: list[int], stop_ids: set[int], **options: Any) -> list[int]:
    output = model.generate(
        input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=-1, **options
    )
    found = [int(each) for each in output[0, len(ids) :]]
    return found[: next((i for i, each in enumerate(found) if each in stop_ids), None)]


def always(reference: ReferenceModel) -> Any:
    """The token of an expert that wins at the first position of every prompt."""
    return token(reference, "law", torch.zeros(reference.head.shape[1]), bias=1000.0)


def by_author(chunks: list[EngineChunk]) -> tuple[list[int], list[int]]:
    """The ids of the meta, and those of the expert."""
    at = next(i for i, chunk in enumerate(chunks) if chunk.expert is not None)
    assert chunks[at].finish is None
    return ids_of(chunks[: at + 1]), ids_of(chunks[at + 1 :])


async def test_at_the_start_it_answers_as_peft_does(engine, reference, expected):
    plain = greedy(reference.model, prompt_ids(reference, TEXTS[0]), reference.stop_ids)
    assert plain != expected[0]
    await engine.install(1, [always(reference)])
    answers = await asyncio.gather(*(run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED) for text in TEXTS))
    assert [by_author(chunks) for chunks in answers] == [([], ids) for ids in expected]


async def test_in_mid_answer_it_answers_as_peft_does_from_the_last_token_on(engine, reference, law):
    texts = TEXTS[:8]
    names = [f"law-{number}" for number in range(len(texts))]
    vectors = [wins_after(reference, text, LATE) for text in texts]
    await engine.install(1, [token(reference, *pair) for pair in zip(names, vectors, strict=True)])
    answers = await asyncio.gather(
        *(
            run(engine, text, max_tokens=LATE + NUM_TOKENS, allowed=(name,), in_place={name: "law"})
            for name, text in zip(names, texts, strict=True)
        )
    )
    for text, chunks in zip(texts, answers, strict=True):
        found, ids = by_author(chunks)
        assert found == reference.write(question(text), "", LATE)[0]
        prompt = [*prompt_ids(reference, text), *found]
        assert ids == greedy(law[1], prompt, reference.stop_ids, alora_offsets=[1])


@pytest.mark.parametrize("num_before", [0, LATE])
async def test_a_call_of_the_expert_gives_the_same_text(engine, reference, num_before):
    text = "which law is this"
    await engine.install(1, [token(reference, "law", wins_after(reference, text, num_before))])
    chunks = await run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED)
    found, ids = by_author(chunks)
    assert len(found) == num_before
    written = reference.text(found)
    called = {"adapter": "law", "written": written, "position": len(found)}
    assert ids_of(await run(engine, text, max_tokens=NUM_TOKENS - len(found), **called)) == ids
    # Its replica was lost after four tokens.
    fingerprint = chunks[0].tokenizer
    assert fingerprint is not None
    called |= {"resumed": Resumed(reference.text(ids[:4]), tuple(ids[:4]), fingerprint)}
    assert ids_of(await run(engine, text, max_tokens=len(ids) - 4, **called)) == ids[4:]


async def test_seeds_and_log_probabilities_are_those_of_a_call(engine, reference):
    await engine.install(1, [token(reference, "law", wins_after(reference, "hello", LATE))])
    options = {"temperature": 1.5, "seed": 7, "sampling": SamplingOptions(num_logprobs=2, min_p=0.01)}
    greedy_start = {"max_tokens": NUM_TOKENS, "temperature": 0.0, "sampling": options["sampling"]}
    chunks = await run(engine, "hello", **greedy_start, **ALLOWED)
    found, ids = by_author(chunks)
    called = {"adapter": "law", "written": reference.text(found), "position": len(found)}
    alone = await run(engine, "hello", **{**greedy_start, "max_tokens": len(ids)}, **called)
    logprobs = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.id for each in logprobs] == [*found, *ids]
    assert [each.logprob for each in logprobs[len(found) :]] == pytest.approx(
        [each.logprob for chunk in alone for each in chunk.logprobs], abs=1e-4
    )
    await engine.install(2, [always(reference)])
    _, drawn = by_author(await run(engine, "hello", **options, **ALLOWED))
    assert drawn == ids_of(await run(engine, "hello", **options, adapter="law"))


async def test_the_chunks_say_who_writes_and_what_was_read(engine, reference, invocation):
    await engine.install(1, [always(reference)])
    first, second, *_ = await run(engine, "hello", reports_start=True, **ALLOWED)
    assert (first.expert, first.finish, first.text) == ("law", None, "")
    assert first.probability == pytest.approx(1.0)
    assert first.routing is not None
    assert first.routing.candidates is not None
    assert first.routing.candidates.experts[0][0] == "law"
    assert first.num_prompt_tokens == len(prompt_ids(reference, "hello"))
    assert second.num_prompt_tokens == len(invocation)
    assert second.tokenizer == first.tokenizer is not None


async def test_an_expert_whose_adapter_is_not_loaded_cannot_win(engine, reference):
    await engine.install(1, [always(reference)])
    chunks = await run(engine, "hello", allowed=("law",), in_place={"law": "missing"})
    assert text_of(chunks) == reference.text(reference.write(question("hello"), "", 12)[0])


async def test_a_probe_writes_nothing(engine, reference):
    await engine.install(1, [always(reference)])
    [chunk] = await run(engine, "hello", probe=True, **ALLOWED)
    assert (chunk.finish, chunk.expert, chunk.token_ids) == (FinishReason.EXPERT, "law", ())


async def test_an_expert_elsewhere_still_ends_the_request(engine, reference):
    await engine.install(1, [always(reference)])
    [chunk] = await run(engine, "hello", allowed=("law",))
    assert (chunk.finish, chunk.expert) == (FinishReason.EXPERT, "law")


async def test_no_keys_of_an_adapter_are_read_as_those_of_the_base(engine, reference):
    """What the expert read and wrote fills several pages of the cache; the base gets exactly these tokens."""
    await engine.install(1, [always(reference)])
    text = "a question that fills several pages of the cache of keys and values"
    _, ids = by_author(await run(engine, text, max_tokens=64, **ALLOWED))
    collided = (*prompt_ids(reference, text), *ids)
    request = EngineRequest("r", ids=collided, temperature=0.0, max_tokens=12)
    chunks = [chunk async for chunk in engine.generate(request)]
    assert ids_of(chunks) == reference.follow(collided, 12)[0]


async def test_what_an_expert_reads_anew_stays_as_it_is_for_other_requests(engine, reference, expected):
    """All share the blocks of the prompt: the expert's invocation begins in a complete one for some texts."""
    await engine.install(1, [always(reference)])
    for text, ids in list(zip(TEXTS, expected, strict=True))[:4]:
        plain = reference.write(question(text), "", NUM_TOKENS)[0]
        for _ in range(2):
            answers = await asyncio.gather(
                run(engine, text, max_tokens=NUM_TOKENS),
                run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED),
                run(engine, text, max_tokens=NUM_TOKENS),
            )
            assert [ids_of(chunks) for chunks in answers] == [plain, ids, plain]


async def test_requests_that_lost_their_cache_go_on_as_before(base, reference, law, expected):
    """Memory is short: the library drops the cache of requests, and prefills prompt and answer again."""
    config = CONFIG.model_copy(update={"cache_tokens": 256, "max_batch_tokens": 128})
    dropped: list[bool] = []
    async with running(config, base) as engine:
        await engine.load_adapter("law", str(law[0]), "exact")
        await engine.install(1, [always(reference)])
        manager = engine._manager.batch_processor.offloading_manager
        offload = manager.offload_requests

        def offload_and_note() -> bool:
            dropped.append(offload())
            return dropped[-1]

        manager.offload_requests = offload_and_note
        answers = await asyncio.gather(
            *(run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED) for text in TEXTS)
        )
    assert any(dropped)
    assert [by_author(chunks)[1] for chunks in answers] == expected


async def test_a_sliding_window_is_read_again_as_a_whole(tmp_path, invocation, reference):
    tokenizer = byte_level()
    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=16,
        max_position_embeddings=256,
        initializer_range=0.4,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    MistralForCausalLM(config).save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    model = save_peft_adapter(tmp_path / "base", tmp_path / "law", alora_invocation_tokens=invocation)
    sliding = ReferenceModel(tmp_path / "base")
    async with running(CONFIG, tmp_path / "base") as engine:
        await engine.load_adapter("law", str(tmp_path / "law"), "exact")
        await engine.install(1, [always(sliding)])
        for text in TEXTS[:4]:
            _, ids = by_author(await run(engine, text, max_tokens=NUM_TOKENS, **ALLOWED))
            assert ids == greedy(model, prompt_ids(sliding, text), sliding.stop_ids)


async def test_an_ordinary_adapter_applies_from_the_last_token_on(engine, tmp_path, reference, law):
    shutil.copytree(law[0], tmp_path, dirs_exist_ok=True)
    settings = json.loads((tmp_path / "adapter_config.json").read_bytes())
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"alora_invocation_tokens": None}))
    await engine.load_adapter("plain", str(tmp_path), "approximate")
    await engine.install(1, [always(reference)])
    chunks = await run(engine, max_tokens=NUM_TOKENS, allowed=("law",), in_place={"law": "plain"})
    ids = greedy(law[1], prompt_ids(reference, "hello"), reference.stop_ids, alora_offsets=[1])
    assert by_author(chunks) == ([], ids)
    assert ids_of(await run(engine, max_tokens=NUM_TOKENS, adapter="plain")) == ids


async def test_an_adapter_has_to_be_trained_for_what_is_asked_of_it(engine, base, tmp_path, law):
    save_peft_adapter(base, tmp_path)
    with pytest.raises(ModelLoadError, match="is an ordinary LoRA.*set adapter.invocation: approximate"):
        await engine.load_adapter("plain", str(tmp_path), "exact")
    with pytest.raises(ModelLoadError, match="is an activated LoRA.*has no effect; remove it"):
        await engine.load_adapter("other", str(law[0]), "approximate")
