"""Routers and replicas of two releases understand each other, or say what they do not understand."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from types import ModuleType
from typing import Any

import pytest

from deployments.replicas.wire import to_engine_request
from deployments.replicas.wire_format import (
    CLASSES,
    FORMAT,
    Message,
    Sent,
    pack,
    unpack_chunk,
    unpack_request,
)
from experts.engine import chunk, request, routing_report, tasks
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.errors import OtherRelease
from tests.deployments.replicas.test_wire import REQUEST

ASKED = to_engine_request(REQUEST)
WRITTEN = EngineChunk(
    "text",
    (1, 2),
    parts=(chunk.TextPart("t"), chunk.ReasoningPart("r"), chunk.ToolCallPart(1, "f", "{}")),
    logprobs=(chunk.TokenLogprobs("t", b"t", -0.5, (chunk.Alternative("u", b"u", -1.5, 8),), 7),),
    finish=FinishReason.EXPERT,
    routing=routing_report.RoutingReport(
        routing_report.Candidates(-0.5, (("law", -1.5),)),
        (routing_report.ShadowWin("law-v2", "law", 0.5, 3),),
    ),
    tokenized=tasks.TokenizedPrompt((1,), ("t",), 512),
    vectors=(b"\x00\x00\x80\x3f",),
)
UNKNOWN_GRAMMAR = ["Grammar", {"kind": "bnf"}]
# As version 1 of the format was first sent. A later release has to read it.
RECORDED_REQUEST: Message = (
    1,
    [
        "EngineRequest",
        {
            "request_id": "r",
            "messages": ({"role": "user", "content": "q"},),
            "temperature": 0.0,
            "sampling": ["SamplingOptions", {"grammar": ["Grammar", {"kind": "regex", "source": "a*"}]}],
            "allowed": ("law",),
        },
    ],
)
RECORDED_CHUNK: Message = (
    1,
    [
        "EngineChunk",
        {"text": "t", "token_ids": (5,), "parts": (["TextPart", {"text": "t"}],), "finish": "stop"},
    ],
)


def arrived(sent: Sent) -> Message:
    message: Message = pickle.loads(pickle.dumps((sent,)))[0]
    return message


def with_field(message: Message, name: str, value: object) -> Message:
    number, (kind, given) = message
    return number, [kind, {**given, name: value}]


def sent_classes() -> Iterator[type[Any]]:
    modules: tuple[ModuleType, ...] = (request, chunk, routing_report, tasks)
    for module in modules:
        for each in vars(module).values():
            if isinstance(each, type) and is_dataclass(each) and each.__module__ == module.__name__:
                yield each


def test_requests_and_chunks_arrive_as_they_were_sent():
    assert unpack_request(arrived(Sent(ASKED))) == ASKED
    received = unpack_chunk(pickle.loads(pickle.dumps(pack(WRITTEN))))
    assert received == WRITTEN
    assert type(received.finish) is FinishReason


@pytest.mark.parametrize("task", [tasks.Embed(), tasks.Embed(256)], ids=["whole", "cut"])
def test_inputs_of_embeddings_and_the_bytes_of_vectors_arrive(task: tasks.Embed):
    asked = EngineRequest("r", inputs=("iron", (5, 6), (7,)), task=task)
    assert unpack_request(arrived(Sent(asked))) == asked
    vectors = (bytes(range(256)), b"\x00\x00\xc0\x7f")  # any bytes, those of NaN too
    found = EngineChunk(vectors=vectors, num_prompt_tokens=9, finish=FinishReason.STOP)
    assert unpack_chunk(pickle.loads(pickle.dumps(pack(found)))) == found


def test_every_class_of_a_request_or_a_chunk_can_be_sent():
    assert set(sent_classes()) == set(CLASSES.values())


def test_only_what_differs_from_the_defaults_is_sent():
    assert pack(EngineRequest("r", text="q")) == (FORMAT, ["EngineRequest", {"request_id": "r", "text": "q"}])


def test_what_an_earlier_release_sends_is_read():
    read = unpack_request(RECORDED_REQUEST)
    assert (read.messages, read.temperature, read.allowed) == (
        ({"role": "user", "content": "q"},),
        0.0,
        ("law",),
    )
    assert read.sampling is not None
    assert read.sampling.grammar == request.Grammar(request.GrammarKind.REGEX, "a*")
    assert unpack_chunk(RECORDED_CHUNK) == EngineChunk(
        "t", (5,), parts=(chunk.TextPart("t"),), finish=FinishReason.STOP
    )


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (with_field(pack(ASKED), "tenant", "s"), r"EngineRequest\.tenant"),
        (with_field(pack(ASKED), "sampling", ["SamplingOptions", {"top_a": 0.5}]), r"SamplingOptions\.top_a"),
        (with_field(pack(ASKED), "task", ["Rerank", {}]), "Rerank"),
        (
            with_field(pack(ASKED), "sampling", ["SamplingOptions", {"grammar": UNKNOWN_GRAMMAR}]),
            "bnf",
        ),
        ((FORMAT, ["EngineRequest", {"text": "q"}]), "EngineRequest without all"),
        ((FORMAT + 1, pack(ASKED)[1]), f"format {FORMAT + 1} "),
        (ASKED, "EngineRequest"),
    ],
    ids=["field", "option", "task", "value", "missing", "format", "before the first format"],
)
def test_a_replica_refuses_what_it_does_not_know_by_name(message: Any, named: str):
    with pytest.raises(OtherRelease, match=named):
        unpack_request(message)


def test_a_router_skips_fields_that_it_has_not_asked_for_and_no_parts():
    assert unpack_chunk(with_field(pack(WRITTEN), "energy_j", 0.5)) == WRITTEN
    parts = (["TextPart", {"text": "t", "language": "en"}],)
    assert unpack_chunk(with_field(pack(WRITTEN), "parts", parts)) == replace(
        WRITTEN, parts=(chunk.TextPart("t"),)
    )
    with pytest.raises(OtherRelease, match="PicturePart"):
        unpack_chunk(with_field(pack(WRITTEN), "parts", (["PicturePart", {}],)))
