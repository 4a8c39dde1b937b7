"""Thoughts and tool calls on both local engines."""

from __future__ import annotations

import asyncio
import itertools
import json
from dataclasses import replace
from typing import Any

import jsonschema
import pytest
import pytest_asyncio
import torch

from experts.engine.chunk import EngineChunk, FinishReason, ReasoningPart, TextPart, ToolCallPart
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.engine.request import ChatOptions, Grammar, GrammarKind, Resumed, SamplingOptions
from experts.errors import InvalidPrompt
from tests.support.engine_world import ENGINE_KINDS, run, running, text_of, token
from tests.support.reference_loop import ReferenceModel
from tests.tiny.models import HIDDEN_SIZE, save_tiny_llama
from tests.tiny.templates import ChatFormat
from tests.tiny.tokenizers import of_format

TEMPLATE = """\
{%- if tools %}<|im_start|>tools
{{ tools | tojson }}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if think %}<think>
{% endif %}{% endif %}
{#- a call is written <tool_call>{"name": …, "arguments": …}</tool_call> #}"""
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>")
FORMAT = ChatFormat(TEMPLATE, eos="<|im_end|>", control=("<|im_start|>", *MARKS))
MARK_IDS = {mark: of_format(FORMAT).get_vocab()[mark] for mark in MARKS}
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=8, num_threads=1),
    "vllm": VllmConfig(
        dtype="float32", max_streams=8, max_batch_tokens=64, cache_bytes=2**24, enforce_eager=True
    ),
}
PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Rome", "Paris"]},
        "days": {"type": "integer", "maximum": 9, "minimum": 1},
    },
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}
TIME = {"type": "function", "function": {"name": "time", "parameters": {"enum": [{}]}}}
THINKING = ChatOptions(template_kwargs={"think": True})
TABLE_VERSIONS = itertools.count(1)

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    save_tiny_llama(folder, of_format(FORMAT), head_dim=32, max_model_len=1024)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=ENGINE_KINDS)
async def engine(request, folder):
    async with running(CONFIGS[request.param], folder) as engine:
        reference = ReferenceModel(folder)
        # Its logit is the bias: it wins at every position at which an expert may.
        always = token(reference, "law", torch.zeros(HIDDEN_SIZE), bias=1000.0)
        await engine.install(next(TABLE_VERSIONS), [always])
        yield engine


def calling(choice: str, *tools: dict[str, Any], **options: Any) -> ChatOptions:
    return ChatOptions(tools=tools, tool_choice=choice, **options)


def parts_of(chunks: list[EngineChunk], kind: type[Any]) -> list[Any]:
    return [part for chunk in chunks for part in chunk.parts or () if isinstance(part, kind)]


def calls_of(chunks: list[EngineChunk]) -> dict[int, tuple[str, Any]]:
    """The name and the parsed arguments of each call."""
    parts = parts_of(chunks, ToolCallPart)
    names = {part.index: part.name for part in parts if part.name is not None}
    joined = {i: "".join(part.arguments for part in parts if part.index == i) for i in names}
    return {i: (name, json.loads(joined[i])) for i, name in names.items()}


async def resumed(engine: Any, text: str, **options: Any) -> list[EngineChunk]:
    """Go on after the model itself has written `text`."""
    again = Resumed(text, (), "another tokenizer")
    return await run(engine, resumed=again, position=5, **options)


async def test_what_follows_an_open_think_block_is_thought(engine):
    chunks = await run(engine, chat=THINKING, max_tokens=6)
    thoughts = "".join(part.text for part in parts_of(chunks, ReasoningPart))
    assert thoughts
    assert parts_of(chunks, TextPart) == []
    assert thoughts.strip() == text_of(chunks).strip()


async def test_after_the_thoughts_comes_the_answer(engine):
    chunks = await resumed(engine, "hm</think>It ", chat=THINKING, max_tokens=6)
    assert parts_of(chunks, ReasoningPart) == []
    assert "".join(part.text for part in parts_of(chunks, TextPart)) == text_of(chunks)


async def test_an_expert_takes_over_before_the_thoughts_or_after_them_but_not_inside(engine):
    for text, takes_over in (("", True), ("hm", False), ("hm</think>It ", True)):
        options: dict[str, Any] = {"chat": THINKING, "allowed": ("law",), "max_tokens": 4}
        chunks = await (resumed(engine, text, **options) if text else run(engine, **options))
        assert (chunks[-1].finish is FinishReason.EXPERT) == takes_over, text


async def test_a_call_that_was_begun_is_continued(engine):
    begun = '<tool_call>{"name": "weather", "arguments": {"city": "'
    chunks = await resumed(engine, begun, chat=calling("auto", WEATHER), max_tokens=6)
    assert {(part.index, part.name) for part in parts_of(chunks, ToolCallPart)} == {(0, None)}


async def test_forced_calls_of_many_requests_fit_their_schemas(engine):
    choices: list[tuple[str, tuple[dict[str, Any], ...]]]
    choices = [("weather", (WEATHER, TIME)), ("required", (WEATHER, TIME)), ("required", (WEATHER,))] * 5
    answers = await asyncio.gather(
        *(
            run(engine, f"{i}?", chat=calling(choice, *tools), temperature=1.0, seed=i, max_tokens=600)
            for i, (choice, tools) in enumerate(choices)
        )
    )
    for (choice, tools), chunks in zip(choices, answers, strict=True):
        calls = calls_of(chunks)
        assert chunks[-1].finish is FinishReason.STOP
        assert parts_of(chunks, TextPart) == []
        assert {name for name, _ in calls.values()} <= {tool["function"]["name"] for tool in tools}
        assert choice == "required" or [name for name, _ in calls.values()] == ["weather"]
        assert all(
            set(arguments) == {"city", "days"} for name, arguments in calls.values() if name == "weather"
        )


async def test_one_call_at_a_time(engine):
    chat = calling("required", WEATHER, TIME, parallel_tool_calls=False)
    chunks = await run(engine, chat=chat, max_tokens=600)
    assert list(calls_of(chunks)) == [0]


async def test_the_meta_may_hand_over_before_a_forced_call_and_not_inside_it(engine):
    chunks = await run(engine, chat=calling("weather", WEATHER), allowed=("law",), max_tokens=600)
    assert chunks[-1].expert == "law"
    own: dict[str, Any] = {"chat": calling("weather", WEATHER), "only_at_start": True, "max_tokens": 600}
    assert calls_of(await run(engine, **own))[0][0] == "weather"


async def test_tools_that_are_not_to_be_called_are_not_sought(engine):
    chunks = await run(engine, chat=calling("none", WEATHER), max_tokens=6)
    assert parts_of(chunks, ToolCallPart) == []


async def test_a_tool_that_is_not_there_is_an_error(engine):
    with pytest.raises(InvalidPrompt, match="no tool named 'moon'"):
        await run(engine, chat=calling("moon", WEATHER))


async def test_an_expert_whose_window_the_prompt_fills_cannot_take_over(engine):
    wide, narrow = ({"law": 4096}, {"law": 8})
    assert (await run(engine, allowed=("law",), windows=wide))[-1].expert == "law"
    assert (await run(engine, allowed=("law",), windows=narrow, max_tokens=3))[-1].expert is None


ANSWER = {"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]}
FORM = SamplingOptions(grammar=Grammar(GrammarKind.JSON_SCHEMA, json.dumps(ANSWER)))


def biased(*tokens: str) -> SamplingOptions:
    """Of the marks, the model writes these and no others."""
    return replace(FORM, logit_bias={i: 100.0 if mark in tokens else -100.0 for mark, i in MARK_IDS.items()})


@pytest.mark.parametrize("seed", [None, 1])
async def test_with_tools_and_a_form_an_answer_is_a_call_or_has_the_form(engine, seed):
    settings: dict[str, Any] = {"chat": calling("auto", WEATHER), "temperature": 1.0, "seed": seed}
    answers = [await run(engine, f"{i}", sampling=FORM, max_tokens=40, **settings) for i in range(3)]
    for chunks in answers:
        if not text_of(chunks).startswith("<tool_call>"):
            jsonschema.validate(json.loads(text_of(chunks)), ANSWER)
            assert "".join(part.text for part in parts_of(chunks, TextPart)) == text_of(chunks)
    chunks = await run(engine, sampling=biased("<tool_call>"), max_tokens=6, **settings)
    assert text_of(chunks).startswith("<tool_call>")
    chunks = await run(engine, sampling=biased("</tool_call>", "<think>"), max_tokens=40, **settings)
    # A call may also be begun letter by letter.
    assert text_of(chunks).startswith(("{", "<tool_call>"))


async def test_a_call_in_place_of_a_form_is_continued(engine):
    begun = '<tool_call>{"name": "weather", "arguments": {"city": "'
    options: dict[str, Any] = {"chat": calling("auto", WEATHER), "sampling": FORM, "max_tokens": 6}
    chunks = await resumed(engine, begun, **options)
    assert {(part.index, part.name) for part in parts_of(chunks, ToolCallPart)} == {(0, None)}
    chunks = await resumed(engine, '{"rain": ', **options | {"max_tokens": 40})
    jsonschema.validate(json.loads('{"rain": ' + text_of(chunks)), ANSWER)
    assert parts_of(chunks, ToolCallPart) == []


async def test_thoughts_before_a_form_or_a_forced_call_are_no_part_of_it(engine):
    forced = replace(calling("required", WEATHER), template_kwargs={"think": True})
    ends = biased("</think>")
    formed = await resumed(engine, "hm", chat=THINKING, sampling=ends, max_tokens=60)
    text = "".join(part.text for part in parts_of(formed, TextPart))
    jsonschema.validate(json.loads(text), ANSWER)
    called = await resumed(engine, "hm", chat=forced, sampling=replace(ends, grammar=None), max_tokens=90)
    assert parts_of(called, TextPart) == []
    assert calls_of(called)[0][0] == "weather"
