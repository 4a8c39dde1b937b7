"""Streams of other servers, cut anywhere: all text arrives, once and complete."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.engine.chunk import (
    Alternative,
    FinishReason,
    ReasoningPart,
    TextPart,
    TokenLogprobs,
    ToolCallPart,
)
from experts.engine.config import OpenAIConfig
from experts.engine.openai.client import CHAT, RemoteClient
from experts.engine.openai.stream_reader import StreamReader
from experts.errors import RemoteMisconfigured, RemoteUnavailable

CONFIG = OpenAIConfig(url="http://server.example/v1", model="m", retries=0)


class Parts(httpx.AsyncByteStream):
    """A response body that arrives in exactly these parts; exceptions among them are raised."""

    def __init__(self, parts: Iterable[bytes | Exception]) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part


async def events_of(
    parts: Iterable[bytes | Exception], kind: str = "text/event-stream"
) -> list[dict[str, Any]]:
    response = httpx.Response(200, headers={"content-type": kind}, stream=Parts(parts))
    client = RemoteClient("chem", CONFIG, transport=httpx.MockTransport(lambda request: response))
    try:
        return [event async for event in client.events(CHAT, {})]
    finally:
        await client.close()


def delta(text: str) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}}]}


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
OTHER_LINES = st.sampled_from(
    ["", ": waiting\n", "event: message\n", "id: 7\n", "retry: 10\n", "\n", "unknown\n"]
)
LINE_ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[bytes]]:
    """Events, and their bytes in parts: any line end, comments, other fields, JSON over several lines."""
    events, lines = [], ""
    for text in draw(st.lists(TEXTS, max_size=6)):
        event = delta(text)
        events.append(event)
        body = json.dumps(event, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1])))
        blank = draw(st.sampled_from(["", " "]))
        lines += draw(OTHER_LINES) + "".join(f"data:{blank}{line}\n" for line in body.split("\n")) + "\n"
    lines += draw(st.sampled_from(["data: [DONE]\n\n", "data:[DONE]\n\ndata: ignored\n\n", ""]))
    data = lines.replace("\n", draw(LINE_ENDS)).encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(data)), max_size=20)))
    bounds = [0, *cuts, len(data)]
    parts = [data[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    return events, [part for part in parts if part]


@settings(deadline=None, max_examples=200)
@given(streams())
def test_events_are_the_same_however_their_bytes_arrive(stream: tuple[list[dict[str, Any]], list[bytes]]):
    events, parts = stream
    assert asyncio.run(events_of(parts)) == events


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("😀𝄞é"), max_size=20), st.data())
def test_characters_that_a_server_splits_are_joined(text: str, data: st.DataObject):
    """A server that splits UTF-16 sends half a surrogate pair as JSON, which cannot be encoded."""
    units = re.findall("..", text.encode("utf-16-be", "surrogatepass").hex(), re.DOTALL)
    halves = [chr(int("".join(units[at : at + 2]), 16)) for at in range(0, len(units), 2)]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(halves)), max_size=6)))
    bounds = [0, *cuts, len(halves)]
    reader = StreamReader("chem")
    chunks = [
        reader.read(delta("".join(halves[start:end]))) for start, end in zip(bounds, bounds[1:], strict=False)
    ]
    reader.read({"choices": [{"finish_reason": "stop"}]})
    chunks.append(reader.last())
    assert "".join(chunk.text for chunk in chunks) == text == reader.text
    for chunk in chunks:
        chunk.text.encode()


def test_half_a_character_at_the_end_becomes_a_replacement_character():
    reader = StreamReader("chem")
    assert reader.read(delta("a\ud83d")).text == "a"
    assert reader.read(delta("b\udc00")).text == "\ufffdb\ufffd"
    assert reader.read({"choices": [{"delta": {"content": "\ud83d"}, "finish_reason": "length"}]}).text == ""
    assert reader.last().text == "\ufffd"


def test_the_servers_counts_replace_the_estimate_but_never_decrease():
    reader = StreamReader("chem")
    pieces = [delta("one two"), delta(""), delta("three") | {"usage": {"completion_tokens": 5}}]
    assert [reader.read(piece).num_unnamed_tokens for piece in pieces] == [1, 0, 4]
    reader.read({"choices": [{"finish_reason": "eos_token"}], "usage": {"completion_tokens": 4}})
    last = reader.last()
    assert (last.num_unnamed_tokens, last.finish) == (0, FinishReason.STOP)


@pytest.mark.parametrize("finish", [None, "abort", "error"])
def test_other_finish_reasons_are_failures(finish: str | None):
    reader = StreamReader("chem")
    reader.read({"choices": [{"delta": {"content": "a"}, "finish_reason": finish}]})
    with pytest.raises(RemoteUnavailable, match=f"with '{finish}'" if finish else "without a finish reason"):
        reader.last()


def test_thoughts_and_tool_calls_are_parts_and_text_stays_text():
    reader = StreamReader("chem")
    deltas: list[dict[str, Any]] = [
        {"content": "so "},
        {"reasoning_content": "hm"},
        {"reasoning": "m", "content": "a"},
        {"tool_calls": [{"index": 0, "id": "x", "function": {"name": "f", "arguments": ""}}]},
        {
            "tool_calls": [
                {"index": 0, "function": {"arguments": '{"a": 1}'}},
                {"index": 1, "function": {"name": "g"}},
            ]
        },
        {"content": "b"},
        {},
    ]
    chunks = [reader.read({"choices": [{"delta": each}]}) for each in deltas]
    assert [chunk.parts for chunk in chunks] == [
        None,
        (ReasoningPart("hm"),),
        (ReasoningPart("m"), TextPart("a")),
        (ToolCallPart(0, "f"),),
        (ToolCallPart(0, None, '{"a": 1}'), ToolCallPart(1, "g")),
        (TextPart("b"),),
        (),
    ]
    reader.read({"choices": [{"finish_reason": "tool_calls"}]})
    chunks.append(reader.last())
    assert (chunks[-1].finish, "".join(chunk.text for chunk in chunks)) == (FinishReason.STOP, "so ab")
    joined = chunks[0]
    for chunk in chunks[1:]:
        joined = joined.followed_by(chunk)
    assert joined.parts is not None
    assert joined.parts[:2] == (TextPart("so "), ReasoningPart("hm"))


def test_log_probabilities_of_chats_and_completions_are_read():
    top = [{"token": "é", "logprob": -0.5, "bytes": [195, 169]}, {"token": "b", "logprob": -2}]
    chat = {"content": [{"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": top}]}
    completion = {
        "tokens": ["é", "b"],
        "token_logprobs": [None, -2],
        "top_logprobs": [None, {"b": -2, "é": -0.5}],
    }
    alternatives = (Alternative("é", "é".encode(), -0.5), Alternative("b", b"b", -2))
    chunk = StreamReader("chem").read({"choices": [{"logprobs": chat}]})
    assert chunk.logprobs == (TokenLogprobs("é", "é".encode(), -0.5, alternatives),)
    chunk = StreamReader("chem").read({"choices": [{"logprobs": completion}]})
    assert chunk.logprobs == (
        TokenLogprobs("é", "é".encode(), None),
        TokenLogprobs("b", b"b", -2, alternatives),
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["choices", "delta", "content", "text", "finish_reason", "usage", "completion_tokens"]
                + ["tool_calls", "function", "arguments", "index", "reasoning", "logprobs", "tokens"]
                + ["token_logprobs", "top_logprobs", "token", "bytes", "logprob"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["choices", "usage", "id"]), JSON))
def test_no_event_of_any_shape_breaks_the_reader(event: dict[str, Any]):
    chunk = StreamReader("chem").read(event)
    chunk.text.encode()
    assert chunk.num_unnamed_tokens >= 0


@pytest.mark.parametrize("data", [b"data: not json\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
async def test_a_server_that_does_not_stream_openai_chunks_is_misconfigured(data: bytes):
    with pytest.raises(RemoteMisconfigured, match="does not answer as OpenAI"):
        await events_of([data])
    with pytest.raises(RemoteMisconfigured, match="does not stream"):
        await events_of([b"{}"], kind="application/json")


@pytest.mark.parametrize(
    "error", [httpx.ReadError("x"), httpx.RemoteProtocolError("x"), httpx.ReadTimeout("x")]
)
async def test_a_broken_connection_is_unavailable(error: Exception):
    with pytest.raises(RemoteUnavailable, match=type(error).__name__):
        await events_of([b'data: {"choices": []}\n\n', error])
