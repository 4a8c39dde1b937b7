"""Nothing is lost between the router's types and those of an engine."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from deployments.replicas.wire import to_engine_request, to_model_chunk
from experts.engine import chunk as engine
from experts.engine import request as asked
from experts.engine import routing_report as report
from experts.engine import tasks as engine_tasks
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from router import parts, prompt, routing_report, sampling, tasks
from router.model_port import Finish, ModelChunk, ModelRequest, Resumed

SAMPLING = sampling.SamplingOptions(
    min_p=0.1,
    presence_penalty=0.2,
    frequency_penalty=0.3,
    repetition_penalty=1.4,
    logit_bias={5: 0.5},
    min_tokens=6,
    ignore_eos=True,
    stop_token_ids=(7,),
    bad_words=("eight",),
    allowed_token_ids=(9,),
    num_logprobs=10,
    num_prompt_logprobs=11,
    grammar=sampling.Grammar(sampling.GrammarKind.REGEX, "a*"),
)
CHAT = prompt.ChatOptions(
    tools=({"type": "function"},),
    tool_choice="required",
    parallel_tool_calls=False,
    template_kwargs={"enable_thinking": False},
    documents=({"text": "d"},),
    chat_template="{{ messages }}",
    truncate_prompt_tokens=5,
    add_generation_prompt=False,
)
REQUEST = ModelRequest(
    request_id="r",
    prompt=prompt.Prompt((prompt.Message("user", "q"),), "t", (1,), "begun ", CHAT, ("input", (2,))),
    sampling=sampling.Sampling(temperature=0.5, top_p=0.5, top_k=5, seed=5, options=SAMPLING),
    max_tokens=5,
    written="w",
    resumed=Resumed("text", (2,), "tokenizer"),
    position=5,
    allowed=("law",),
    shadows=("law-v2",),
    reports_start=True,
    windows={"law": 512},
    bias={"law": 0.5},
    in_place={"law": "law"},
    only_at_start=True,
    probe=True,
    task=tasks.Tokenize(add_special_tokens=False, with_texts=True),
    adapter="law",
    cache_salt="s",
    trace_headers={"traceparent": "00-1-2-01"},
    message_gap_s=0.5,
)


def names(kind: Any, *left_out: str) -> set[str]:
    return {field.name for field in fields(kind)} - set(left_out)


def unset(value: Any, empty: Any) -> list[str]:
    return [name for name in names(type(value)) if getattr(value, name) == getattr(empty, name)]


def test_both_sides_have_the_same_fields():
    router_side = names(ModelRequest, "prompt", "sampling")
    router_side |= names(prompt.Prompt, "options") | names(sampling.Sampling, "options")
    assert names(EngineRequest) == router_side | {"sampling", "chat"}
    renamed = names(EngineChunk, "token_ids", "num_unnamed_tokens") | {"ids", "num_tokens"}
    assert renamed == names(ModelChunk)
    for router_kind, engine_kind in (
        (sampling.SamplingOptions, asked.SamplingOptions),
        (sampling.Grammar, asked.Grammar),
        (prompt.ChatOptions, asked.ChatOptions),
        (Resumed, asked.Resumed),
        (parts.TextPart, engine.TextPart),
        (parts.ReasoningPart, engine.ReasoningPart),
        (parts.ToolCallPart, engine.ToolCallPart),
        (parts.TokenLogprobs, engine.TokenLogprobs),
        (parts.Alternative, engine.Alternative),
        (routing_report.Candidates, report.Candidates),
        (routing_report.ShadowWin, report.ShadowWin),
        (routing_report.RoutingReport, report.RoutingReport),
        (tasks.Tokenize, engine_tasks.Tokenize),
        (tasks.Embed, engine_tasks.Embed),
        (tasks.TokenizedPrompt, engine_tasks.TokenizedPrompt),
    ):
        assert names(router_kind) == names(engine_kind)


def test_both_sides_know_the_same_values():
    assert {reason.value for reason in FinishReason} == {finish.value for finish in Finish}
    assert {kind.value for kind in asked.GrammarKind} == {kind.value for kind in sampling.GrammarKind}


def test_no_field_of_a_request_is_forgotten_on_its_way_to_the_engine():
    sent = to_engine_request(REQUEST)
    assert unset(sent, EngineRequest("")) == []
    for name in names(ModelRequest, "prompt", "sampling", "resumed", "written", "task"):
        assert getattr(sent, name) == getattr(REQUEST, name)
    for name in names(sampling.Sampling, "options"):
        assert getattr(sent, name) == getattr(REQUEST.sampling, name)
    assert sent.written == "begun w"
    assert sent.task == engine_tasks.Tokenize(add_special_tokens=False, with_texts=True)


@pytest.mark.parametrize(
    ("asked_for", "performed"),
    [
        (tasks.Detokenize(), engine_tasks.Detokenize()),
        (tasks.Embed(8), engine_tasks.Embed(8)),
    ],
)
def test_every_task_arrives(asked_for: tasks.Task, performed: engine_tasks.Task):
    assert to_engine_request(ModelRequest("r", prompt.Prompt(), task=asked_for)).task == performed


def test_no_option_of_a_request_is_forgotten():
    sent = to_engine_request(REQUEST)
    assert sent.sampling is not None
    assert sent.chat is not None
    assert unset(SAMPLING, sampling.SamplingOptions()) == unset(CHAT, prompt.ChatOptions()) == []
    for name in names(sampling.SamplingOptions, "grammar"):
        assert getattr(sent.sampling, name) == getattr(SAMPLING, name)
    for name in names(prompt.ChatOptions):
        assert getattr(sent.chat, name) == getattr(CHAT, name)
    assert sent.sampling.grammar == asked.Grammar(asked.GrammarKind.REGEX, "a*")


def test_a_message_arrives_as_openai_has_it():
    call = prompt.ToolCall("call_1", "weather", '{"city": "Rome"}')
    messages = (
        prompt.Message("user", "q"),
        prompt.Message("assistant", "", tool_calls=(call,), reasoning="hm"),
        prompt.Message("tool", "sunny", tool_call_id="call_1", name="weather"),
    )
    assert to_engine_request(ModelRequest("r", prompt.Prompt(messages))).messages == (
        {"role": "user", "content": "q"},
        {
            "role": "assistant",
            "content": "",
            "reasoning": "hm",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
                }
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1", "name": "weather"},
    )


def test_media_arrive_as_the_content_parts_of_openai():
    content, media = prompt.joined(
        [
            "look",
            prompt.Media("image", "data:image/png;base64,AA", detail="low"),
            prompt.Media("audio", "data:audio/wav;base64,BB"),
            prompt.Media("audio", "data:audio/mpeg;base64,CC"),
            prompt.Media("file", "data:application/pdf;base64,DD", name="a.pdf"),
        ]
    )
    message = prompt.Message("user", content, media=media)
    sent = to_engine_request(ModelRequest("r", prompt.Prompt((message,))))
    assert sent.messages is not None
    assert sent.messages[0]["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "input_audio", "input_audio": {"data": "BB", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "CC", "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,DD"}},
    ]


def test_no_field_of_a_chunk_is_forgotten_on_its_way_to_the_router():
    token = engine.TokenLogprobs("t", b"t", -0.5, (engine.Alternative("u", b"u", -1.5, 8),), 7)
    chunk = EngineChunk(
        text="t",
        token_ids=(1, 2),
        num_unnamed_tokens=3,
        parts=(engine.TextPart("t"), engine.ReasoningPart("r"), engine.ToolCallPart(1, "f", "{}")),
        logprobs=(token,),
        prompt_logprobs=(token,),
        tokenizer="tokenizer",
        num_prompt_tokens=4,
        num_cached_tokens=3,
        finish=FinishReason.EXPERT,
        stop_token=5,
        expert="law",
        probability=0.5,
        distribution={"law": 0.5},
        routing=report.RoutingReport(
            report.Candidates(-0.5, (("law", -1.5),)), (report.ShadowWin("law-v2", "law", 0.5, 3),)
        ),
        tokenized=engine_tasks.TokenizedPrompt((1,), ("t",), 512),
        vectors=(b"1234",),
        queue_s=0.25,
        prefill_s=0.125,
    )
    received = to_model_chunk(chunk)
    assert unset(received, ModelChunk()) == []
    assert (received.num_tokens, received.ids) == (5, (1, 2))
    assert received.parts == (parts.TextPart("t"), parts.ReasoningPart("r"), parts.ToolCallPart(1, "f", "{}"))
    logprobs = parts.TokenLogprobs("t", b"t", -0.5, (parts.Alternative("u", b"u", -1.5, 8),), 7)
    assert received.logprobs == received.prompt_logprobs == (logprobs,)
    assert received.routing == routing_report.RoutingReport(
        routing_report.Candidates(-0.5, (("law", -1.5),)),
        (routing_report.ShadowWin("law-v2", "law", 0.5, 3),),
    )
    assert received.tokenized == tasks.TokenizedPrompt((1,), ("t",), 512)
    converted = (
        "routing",
        "tokenized",
        "token_ids",
        "num_unnamed_tokens",
        "parts",
        "logprobs",
        "prompt_logprobs",
    )
    for name in names(EngineChunk, *converted):
        assert getattr(received, name) == getattr(chunk, name)
