"""Chunks of fast models are joined, and none waits for one that may never come."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.coalescing import MIN_MESSAGE_GAP_S, Coalescer
from deployments.model import ModelServer
from deployments.replicas.wire_format import pack, unpack_chunk
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.errors import EngineDead
from tests.fakes.grpc_replica import ScriptedEngine

END = EngineChunk(finish=FinishReason.STOP)


class Writer:
    """A model by a clock of its own: each chunk comes so many seconds after the one before."""

    def __init__(self, script: Sequence[tuple[float, EngineChunk]]) -> None:
        self._now_s = 0.0
        self._script = script

    def messages(self, gap_s: float = 0.0) -> list[EngineChunk]:
        coalescer = Coalescer(gap_s, clock=lambda: self._now_s)
        sent = [coalescer.add(chunk) for chunk in self._chunks()]
        return [message for message in (*sent, coalescer.rest()) if message is not None]

    def texts(self, gap_s: float = 0.0) -> list[str]:
        return [message.text for message in self.messages(gap_s)]

    def _chunks(self) -> Iterator[EngineChunk]:
        for after_s, chunk in self._script:
            self._now_s += after_s
            yield chunk


def words(*texts: str) -> list[EngineChunk]:
    return [EngineChunk(text=text, token_ids=(number,)) for number, text in enumerate(texts)]


def test_chunks_that_come_at_the_usual_rate_are_sent_one_by_one():
    script = [(1.1 * MIN_MESSAGE_GAP_S, chunk) for chunk in [*words("a", "b", "c"), END]]
    assert Writer(script).texts() == ["a", "b", "c", ""]


def test_chunks_that_come_faster_are_joined_but_the_first_is_sent_at_once():
    script = [(0.6 * MIN_MESSAGE_GAP_S, chunk) for chunk in [*words("a", "b", "c", "d", "e"), END]]
    assert Writer(script).texts() == ["a", "bc", "de", ""]


def test_a_request_may_ask_for_longer_gaps():
    script = [(0.1, chunk) for chunk in [*words("a", "b", "c", "d", "e"), END]]
    assert Writer(script).texts(gap_s=0.25) == ["a", "bcd", "e"]


def test_a_first_chunk_without_text_does_not_delay_the_first_text():
    first = EngineChunk(token_ids=(7,), tokenizer="t", num_prompt_tokens=3)
    assert Writer([(0.0, first), (0.0, words("a")[0])]).texts() == ["", "a"]


def test_the_last_chunk_takes_along_what_waits():
    chunks = Writer([(0.0, chunk) for chunk in [*words("a", "b", "c"), END]]).messages()
    assert [chunk.text for chunk in chunks] == ["a", "bc"]
    assert (chunks[-1].finish, chunks[-1].token_ids) == (FinishReason.STOP, (1, 2))


def test_a_change_of_the_writer_is_sent_at_once_with_the_text_before_it():
    script = [(0.0, EngineChunk("a")), (0.0, EngineChunk("b")), (0.0, EngineChunk(expert="law"))]
    sent = Writer([*script, (0.0, EngineChunk("c")), (0.0, END)]).messages()
    assert [(each.text, each.expert) for each in sent] == [("a", None), ("b", "law"), ("c", None)]


async def test_what_waits_is_sent_before_an_error():
    server = ModelServer(ScriptedEngine([*words("a", "b"), EngineDead("gone")]))
    stream = server.generate(pack(EngineRequest("r", text="q", message_gap_s=60)))
    assert [unpack_chunk(await anext(stream)).text for _ in range(2)] == ["a", "b"]
    with pytest.raises(EngineDead):
        await anext(stream)


async def test_closing_a_stream_closes_that_of_the_engine():
    engine = ScriptedEngine(words("a", "b"))
    stream = ModelServer(engine).generate(pack(EngineRequest("r", text="q")))
    await anext(stream)
    await stream.aclose()
    assert engine.ended.is_set()


@given(
    st.lists(st.tuples(st.floats(0.0, 2 * MIN_MESSAGE_GAP_S), st.text(max_size=3), st.integers(0, 2))),
    st.booleans(),
)
def test_no_text_and_no_token_is_lost_or_doubled(parts: list[tuple[float, str, int]], ends: bool):
    first = EngineChunk(tokenizer="t", num_prompt_tokens=5, queue_s=0.25, prefill_s=0.5)
    rest = [
        (gap_s, EngineChunk(text=text, token_ids=(9,), num_unnamed_tokens=num)) for gap_s, text, num in parts
    ]
    script = [(0.0, first), *rest, *([(0.0, END)] if ends else [])]
    chunks = Writer(script).messages()
    assert "".join(chunk.text for chunk in chunks) == "".join(text for _, text, _ in parts)
    assert sum(len(chunk.token_ids) for chunk in chunks) == len(parts)
    assert sum(chunk.num_unnamed_tokens for chunk in chunks) == sum(num for _, _, num in parts)
    extras = [(chunk.tokenizer, chunk.num_prompt_tokens, chunk.queue_s, chunk.prefill_s) for chunk in chunks]
    assert extras[0] == ("t", 5, 0.25, 0.5)
    assert all(extra == (None, None, 0.0, 0.0) for extra in extras[1:])
    assert [chunk.finish for chunk in chunks if chunk.finish] == ([FinishReason.STOP] if ends else [])
