"""Sampling options, log-probabilities and grammars: the same on each engine.

vLLM is tested if it is installed; `make test` creates an environment for it.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
import torch

from experts.engine.chunk import FinishReason
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.engine.request import Grammar, GrammarKind, Resumed, SamplingOptions
from experts.errors import EngineFailed, InvalidCall
from tests.experts.engine.test_engine_conformance import install
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
from tests.support.sampling_reference import greedy_ids
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.tokenizers import byte_level

CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=16, num_threads=1),
    "vllm": VllmConfig(
        dtype="float32", max_streams=16, max_batch_tokens=128, cache_bytes=2**24, enforce_eager=True
    ),
}
TOKENIZER = byte_level()
END_ID = TOKENIZER.eos_token_id
LETTERS = dict.fromkeys(TOKENIZER("abcdefgh", add_special_tokens=False)["input_ids"], 20.0)
# A model with random weights writes mostly blanks where a grammar allows them.
BLANKS = {i: -100.0 for i in range(len(TOKENIZER)) if str(TOKENIZER.decode([i])).isspace()}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 8},
        "home": {"type": "object", "properties": {"zip": {"$ref": "#/$defs/zip"}}, "required": ["zip"]},
    },
    "required": ["name", "home"],
    "$defs": {"zip": {"type": "string", "pattern": "^[0-9]{3}-[a-f]+$"}},
}
SCHEMAS: dict[str, Any] = {
    "nested": PERSON,
    "enum": {"enum": ["red", 'a "b"\n', 3, None, True]},
    "arrays": {
        "type": "array",
        "items": {"type": "integer", "minimum": -20, "maximum": 400},
        "minItems": 2,
        "maxItems": 4,
    },
    "refs": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {"leaf": {"type": "boolean"}, "next": {"$ref": "#/$defs/small"}},
                "required": ["leaf", "next"],
                "additionalProperties": False,
            },
            "small": {"anyOf": [{"type": "null"}, {"const": 7}]},
        },
    },
    "unicode": {
        "type": "object",
        "properties": {"größe": {"enum": ["größer", "日本", "🙂"]}, "x": {"type": "string", "maxLength": 3}},
        "required": ["größe", "x"],
    },
}

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
    save_tiny_llama(folder, TOKENIZER, head_dim=32)
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
    await install(shared_engine, [])
    return shared_engine


def json_grammar(schema: Any) -> Grammar:
    return Grammar(GrammarKind.JSON_SCHEMA, json.dumps(schema))


def greedy(
    reference: ReferenceModel, options: SamplingOptions, written: str = "", num: int = 16
) -> list[int]:
    own = TOKENIZER(written, add_special_tokens=False)["input_ids"]
    return greedy_ids(reference, prompt_ids(reference, "hello"), own, options, num)


PENALTIES = [
    SamplingOptions(presence_penalty=1.5),
    SamplingOptions(frequency_penalty=1.5),
    SamplingOptions(repetition_penalty=1.6),
    SamplingOptions(repetition_penalty=0.7, presence_penalty=-1.0, frequency_penalty=0.5),
]
RULES = [
    *PENALTIES,
    SamplingOptions(logit_bias={65: 9.0, 66: 8.5, 70: -100.0}),
    SamplingOptions(allowed_token_ids=(65, 66, 67, 90, 91)),
    SamplingOptions(logit_bias={END_ID: 50.0}, min_tokens=5),
    SamplingOptions(logit_bias=LETTERS, frequency_penalty=2.0, allowed_token_ids=(*LETTERS, 65, 66)),
]


@pytest.mark.parametrize("options", RULES, ids=range(len(RULES)))
async def test_rules_and_penalties_choose_as_the_reference_does(engine, reference, options):
    chunks = await run(engine, sampling=options, max_tokens=16)
    assert ids_of(chunks) == greedy(reference, options)
    assert ids_of(chunks) != ids_of(await run(engine, max_tokens=16))


@pytest.mark.parametrize("options", PENALTIES, ids=range(len(PENALTIES)))
async def test_penalties_count_text_that_stands_in_the_turn_as_the_answer(engine, reference, options):
    written = "the answer is an answer"
    chunks = await run(engine, written=written, sampling=options, max_tokens=16)
    assert ids_of(chunks) == greedy(reference, options, written)


@pytest.mark.parametrize("options", RULES, ids=range(len(RULES)))
async def test_a_seeded_answer_under_rules_is_the_same_alone_in_a_batch_and_resumed(engine, options):
    settings: dict[str, Any] = {"temperature": 1.0, "top_p": 0.9, "seed": 5, "sampling": options}
    alone = await run(engine, max_tokens=16, **settings)
    batch = await asyncio.gather(*(run(engine, max_tokens=16, **settings | {"seed": s}) for s in (4, 5, 6)))
    assert ids_of(batch[1]) == ids_of(alone)
    ids = ids_of(alone)
    for num in (1, len(ids) // 2):
        resumed = Resumed("", tuple(ids[:num]), alone[0].tokenizer or "")
        left = settings | {"sampling": replace(options, min_tokens=max(0, options.min_tokens - num))}
        rest = await run(engine, resumed=resumed, position=num, max_tokens=16 - num, **left)
        assert ids_of(rest) == ids[num:]


async def test_min_p_keeps_tokens_near_the_likeliest_one(engine):
    likeliest = ids_of(await run(engine))
    for seed in (None, 3):
        kept = await run(engine, temperature=2.0, seed=seed, sampling=SamplingOptions(min_p=1.0))
        assert ids_of(kept) == likeliest


async def test_bad_words_are_not_written_also_across_written_text(engine, reference):
    plain = text_of(await run(engine, max_tokens=20))
    word = plain[3:6]
    chunks = await run(engine, max_tokens=20, sampling=SamplingOptions(bad_words=(word,)))
    assert text_of(chunks)[:3] == plain[:3]
    ids = tuple(TOKENIZER(word, add_special_tokens=False)["input_ids"])
    written = ids_of(chunks)
    assert ids not in [tuple(written[i : i + len(ids)]) for i in range(len(written))]
    begun, end = "xyz", "w"
    options = SamplingOptions(bad_words=(begun + end,), logit_bias={TOKENIZER(end)["input_ids"][0]: 90.0})
    assert text_of(await run(engine, written="x", max_tokens=1, sampling=options)) == end
    assert text_of(await run(engine, written=begun, max_tokens=1, sampling=options)) != end


async def test_an_answer_ignores_the_end_of_a_turn_or_ends_at_other_tokens(engine):
    ends = SamplingOptions(logit_bias={END_ID: 100.0})
    assert (await run(engine, sampling=ends))[-1].finish is FinishReason.STOP
    chunks = await run(engine, sampling=replace(ends, ignore_eos=True), max_tokens=9)
    assert (chunks[-1].finish, ids_of(chunks), text_of(chunks)) == (FinishReason.LENGTH, [END_ID] * 9, "")
    plain = await run(engine)
    ids = ids_of(plain)
    stopped = await run(engine, sampling=SamplingOptions(stop_token_ids=(ids[4], END_ID)))
    assert ids_of(stopped) == ids[: ids.index(ids[4])]
    assert (stopped[-1].finish, stopped[-1].stop_token) == (FinishReason.STOP, ids[4])
    assert plain[-1].stop_token is None


@pytest.mark.parametrize(
    "options",
    [
        SamplingOptions(ignore_eos=True),
        SamplingOptions(ignore_eos=True, logit_bias={END_ID: 100.0}),
        SamplingOptions(min_tokens=10),
        SamplingOptions(frequency_penalty=2.0, logit_bias={65: 3.0}),
        SamplingOptions(allowed_token_ids=(65, 66)),
        SamplingOptions(num_logprobs=2),
        SamplingOptions(grammar=json_grammar(PERSON)),
        SamplingOptions(grammar=json_grammar(PERSON), min_tokens=4, ignore_eos=True),
    ],
    ids=range(8),
)
async def test_a_hand_over_is_decided_before_any_option(engine, reference, options):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", 0))])
    both: tuple[dict[str, Any], ...] = ({}, {"seed": 3, "temperature": 1.0})
    for settings in both:
        chunks = await run(engine, allowed=("law",), sampling=options, **settings)
        assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "law")
        assert (text_of(chunks), ids_of(chunks), chunks[-1].logprobs) == ("", [], ())
        assert chunks[-1].probability == pytest.approx(1.0)


async def test_an_expert_takes_over_later_in_an_answer_that_ignores_its_end(engine, reference):
    await install(engine, [token(reference, "law", wins_after(reference, "hello", 5))])
    options = SamplingOptions(ignore_eos=True, num_logprobs=0)
    chunks = await run(engine, allowed=("law",), sampling=options, max_tokens=60)
    assert (chunks[-1].finish, chunks[-1].expert) == (FinishReason.EXPERT, "law")
    assert ids_of(chunks) == reference.write(question("hello"), "", 5)[0]


async def test_an_expert_does_not_win_inside_a_grammar(engine, reference):
    await install(engine, [token(reference, "law", torch.zeros(HIDDEN_SIZE), bias=1e5)])
    options = SamplingOptions(grammar=json_grammar(PERSON), logit_bias=BLANKS)
    begun = Resumed('{"name": "', (), "another")
    chunks = await run(engine, sampling=options, max_tokens=150, seed=1, temperature=1.0)
    assert chunks[-1].finish is FinishReason.STOP
    resumed = await run(engine, resumed=begun, sampling=options, max_tokens=150)
    jsonschema.validate(json.loads(begun.text + text_of(resumed)), PERSON)


@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 8}, {"temperature": 1.0}])
async def test_log_probabilities_are_those_of_the_model(engine, reference, settings):
    options = SamplingOptions(
        num_logprobs=3, num_prompt_logprobs=2, repetition_penalty=1.5, logit_bias={65: 4}
    )
    chunks = await run(engine, sampling=options, **settings)
    prompt, ids = prompt_ids(reference, "hello"), ids_of(chunks)
    scores = logprob_rows(reference, [*prompt, *ids])
    found = [each for chunk in chunks for each in chunk.logprobs]
    assert [each.id for each in found] == ids
    assert all(len(chunk.logprobs) == len(chunk.token_ids) for chunk in chunks)
    for each, row in zip(found, scores[len(prompt) - 1 :], strict=False):
        require_logprobs(each, row, 3)
    first, *rest = chunks[0].prompt_logprobs
    assert (first.id, first.logprob, first.top) == (prompt[0], None, ())
    assert [each.id for each in rest] == prompt[1:]
    for each, row in zip(rest, scores, strict=False):
        require_logprobs(each, row, 2)
    assert not any(chunk.prompt_logprobs for chunk in chunks[1:])


@torch.no_grad()
def logprob_rows(reference: ReferenceModel, ids: list[int]) -> torch.Tensor:
    logits: torch.Tensor = reference.model(torch.tensor([ids]), use_cache=False).logits[0]
    return logits.log_softmax(-1)


def require_logprobs(found: Any, row: torch.Tensor, num: int) -> None:
    assert found.logprob == pytest.approx(row[found.id].item(), abs=1e-3)
    values, ids = row.topk(num)
    assert [each.id for each in found.top] == ids.tolist()
    assert [each.logprob for each in found.top] == pytest.approx(values.tolist(), abs=1e-3)
    text = str(TOKENIZER.decode([found.id]))
    assert found.data.decode(errors="replace") == found.token == text


async def test_scoring_a_prompt_does_not_disturb_other_answers(engine, reference):
    options = SamplingOptions(num_prompt_logprobs=0)
    texts = [f"{i} {'x' * (9 * i)}" for i in range(8)]
    answers = await asyncio.gather(
        *(
            run(engine, text, sampling=options if i % 2 else None, max_tokens=20)
            for i, text in enumerate(texts)
        )
    )
    for i, (text, chunks) in enumerate(zip(texts, answers, strict=True)):
        assert ids_of(chunks) == reference.write(question(text), "", 20)[0]
        assert len(chunks[0].prompt_logprobs) == (chunks[0].num_prompt_tokens if i % 2 else 0)


@pytest.mark.parametrize("with_expert", [False, True])
async def test_json_matches_its_schema_with_16_answers_in_flight(engine, reference, with_expert):
    vector = 4 * torch.randn(HIDDEN_SIZE, generator=torch.Generator().manual_seed(1))
    expert = token(reference, "law", vector)
    await install(engine, [expert])
    wins = 0

    async def one(number: int) -> None:
        nonlocal wins
        name = list(SCHEMAS)[number % len(SCHEMAS)]
        options = SamplingOptions(grammar=json_grammar(SCHEMAS[name]), logit_bias=BLANKS)
        settings = {"temperature": 1.0, "seed": number if number % 2 else None, "sampling": options}
        allowed = ("law",) if with_expert else ()
        chunks = await run(engine, f"write {number}", max_tokens=180, allowed=allowed, **settings)
        if chunks[-1].finish is FinishReason.EXPERT:
            assert text_of(chunks) == ""
            wins += 1
            chunks = await run(engine, f"write {number}", max_tokens=180, **settings)
        assert chunks[-1].finish is FinishReason.STOP, (name, text_of(chunks))
        jsonschema.validate(json.loads(text_of(chunks)), SCHEMAS[name])

    slots = asyncio.Semaphore(16)

    async def limited(number: int) -> None:
        async with slots:
            await one(number)

    await asyncio.gather(*map(limited, range(48)))
    assert (0 < wins < 48) == with_expert


async def test_an_interrupted_answer_continues_under_its_grammar(engine):
    options = SamplingOptions(grammar=json_grammar(PERSON), logit_bias=BLANKS, frequency_penalty=0.5)
    settings: dict[str, Any] = {"temperature": 1.0, "seed": 4, "sampling": options}
    whole = await run(engine, max_tokens=150, **settings)
    jsonschema.validate(json.loads(text_of(whole)), PERSON)
    ids = ids_of(whole)
    for num in range(1, len(ids), 3):
        known = Resumed(str(TOKENIZER.decode(ids[:num])), tuple(ids[:num]), whole[0].tokenizer or "")
        rest = await run(engine, resumed=known, position=num, max_tokens=150, **settings)
        assert ids_of(rest) == ids[num:]
    text = text_of(whole)
    foreign = Resumed(text[:9], (1, 2), "another")
    rest = await run(engine, resumed=foreign, position=9, max_tokens=150, **settings)
    jsonschema.validate(json.loads(text[:9] + text_of(rest)), PERSON)
    with pytest.raises(EngineFailed, match="does not match its grammar"):
        await run(engine, resumed=Resumed("[1, 2", (), "another"), sampling=options)


async def test_a_grammar_begins_where_the_thoughts_end(kind, folder, reference):
    config = CONFIGS[kind].model_copy(update={"reasoning_parser": "deepseek_r1"})
    options = SamplingOptions(grammar=json_grammar(PERSON), logit_bias=BLANKS)
    async with running(config, folder) as engine:
        thoughts = await run(engine, sampling=options, max_tokens=16)
        assert ids_of(thoughts) == greedy(reference, replace(options, grammar=None))
        tokenizer = thoughts[0].tokenizer or ""
        text = "{ so [</think>"
        ids = tuple(TOKENIZER(text, add_special_tokens=False)["input_ids"])
        for resumed in (Resumed(text, ids, tokenizer), Resumed(text + '{"na', (), "another")):
            chunks = await run(engine, resumed=resumed, sampling=options, max_tokens=150)
            answer = (resumed.text + text_of(chunks)).removeprefix(text)
            jsonschema.validate(json.loads(answer), PERSON)


@pytest.mark.parametrize("name", SCHEMAS)
@pytest.mark.parametrize("settings", [{}, {"temperature": 1.0, "seed": 2}, {"temperature": 1.0}])
async def test_json_is_complete_when_the_tokens_are_used_up(engine, name, settings):
    """Without a bias the model writes long strings; the end of its turn would come much later."""
    options = SamplingOptions(grammar=json_grammar(SCHEMAS[name]))
    budgets = (45, 52, 60)
    answers = await asyncio.gather(
        *(run(engine, sampling=options, max_tokens=num, **settings) for num in budgets)
    )
    for num, chunks in zip(budgets, answers, strict=True):
        jsonschema.validate(json.loads(text_of(chunks)), SCHEMAS[name])
        is_used_up = len(ids_of(chunks)) == num
        assert chunks[-1].finish is (FinishReason.LENGTH if is_used_up else FinishReason.STOP)


async def test_an_object_is_cut_short_inside_a_string(engine):
    options = SamplingOptions(grammar=Grammar(GrammarKind.JSON_OBJECT), logit_bias=LETTERS)
    whole = await run(engine, sampling=options, max_tokens=20)
    assert (len(ids_of(whole)), whole[-1].finish) == (20, FinishReason.LENGTH)
    assert isinstance(json.loads(text_of(whole)), dict)
    ids = ids_of(whole)
    for num in (1, 9, 19):  # the tokens of an interrupted answer count too
        known = Resumed(str(TOKENIZER.decode(ids[:num])), tuple(ids[:num]), whole[0].tokenizer or "")
        rest = await run(engine, sampling=options, resumed=known, position=num, max_tokens=20 - num)
        assert ids_of(rest) == ids[num:]
    short = await run(engine, sampling=options, max_tokens=1)
    assert (text_of(short), short[-1].finish) == ("{", FinishReason.LENGTH)


@pytest.mark.parametrize(
    ("grammar", "pattern"),
    [
        (Grammar(GrammarKind.REGEX, "[a-c]{3}-(x|yy)"), "[a-c]{3}-(x|yy)"),
        (Grammar(GrammarKind.CHOICE, '["ja \\"x\\"", "né\\n\\\\"]'), 'ja "x"|né\n\\\\'),
        (Grammar(GrammarKind.GRAMMAR, 'root ::= "<" [0-4]+ ">"'), "<[0-4]+>"),
        (Grammar(GrammarKind.JSON_OBJECT), r"\{.*\}"),
    ],
)
async def test_other_grammars_are_matched(engine, grammar, pattern):
    bias = BLANKS | dict.fromkeys(TOKENIZER('>}"', add_special_tokens=False)["input_ids"], 30.0)
    options = SamplingOptions(grammar=grammar, logit_bias=bias)
    both: tuple[dict[str, Any], ...] = ({}, {"temperature": 1.0})
    for settings in both:
        chunks = await run(engine, sampling=options, max_tokens=180, **settings)
        assert chunks[-1].finish is FinishReason.STOP
        assert re.fullmatch(pattern, text_of(chunks), re.DOTALL), text_of(chunks)


async def test_a_structural_tag_holds_its_parts_to_their_schemas(engine):
    tag = {
        "structures": [{"begin": "<f>", "schema": SCHEMAS["refs"], "end": "</f>"}],
        "triggers": ["<f>"],
    }
    options = SamplingOptions(grammar=Grammar(GrammarKind.STRUCTURAL_TAG, json.dumps(tag)), logit_bias=BLANKS)
    chunks = await run(engine, resumed=Resumed("so: <f>", (), "x"), sampling=options, max_tokens=60)
    part = text_of(chunks).split("</f>")[0]
    jsonschema.validate(json.loads(part), SCHEMAS["refs"])


@pytest.mark.parametrize(
    ("options", "param", "message"),
    [
        ({"grammar": Grammar(GrammarKind.JSON_SCHEMA, "{")}, "response_format", "cannot be used"),
        ({"grammar": json_grammar({"type": "nonsense"})}, "response_format", "nonsense"),
        ({"grammar": json_grammar({"not": {}})}, "response_format", "'not' is not supported"),
        ({"grammar": Grammar(GrammarKind.REGEX, "a(")}, "structured_outputs", "parenthesis"),
        ({"grammar": Grammar(GrammarKind.CHOICE, "[]")}, "structured_outputs", "one or more texts"),
        ({"grammar": Grammar(GrammarKind.GRAMMAR, "root ::= x")}, "structured_outputs", "not defined"),
        ({"logit_bias": {10**6: 1.0}}, "logit_bias", "token ids are from 0"),
        ({"allowed_token_ids": ()}, "allowed_token_ids", "empty"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids", "token ids are from 0"),
        ({"num_logprobs": 21}, "num_logprobs", "from 0 to 20"),
        ({"repetition_penalty": 0.0}, "repetition_penalty", "greater than 0"),
        ({"bad_words": ("",)}, "bad_words", "one or more tokens"),
    ],
)
async def test_options_that_a_model_cannot_follow_are_refused_by_name(engine, options, param, message):
    with pytest.raises(InvalidCall, match=message) as caught:
        await run(engine, sampling=SamplingOptions(**options))
    assert caught.value.param == param
    assert "\n" not in str(caught.value)
    assert text_of(await run(engine))
