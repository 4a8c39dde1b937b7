"""Chunks that come fast go together, and none waits for what may never come."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.pacing import MIN_GAP_S, paced
from experts.engine.base import Chunk, FinishReason
from experts.errors import EngineDead

END = Chunk(finish=FinishReason.STOP)


class Writer:
    """An engine's stream by a clock of its own: each chunk comes so many seconds after the one before."""

    def __init__(self, script: Sequence[tuple[float, Chunk]], error: Exception | None = None) -> None:
        self.now_s = 0.0
        self.is_closed = False
        self._script = script
        self._error = error

    async def write(self) -> AsyncGenerator[Chunk, None]:
        try:
            for after_s, chunk in self._script:
                self.now_s += after_s
                yield chunk
            if self._error:
                raise self._error
        finally:
            self.is_closed = True

    def paced(self, gap_s: float = 0.0) -> AsyncGenerator[Chunk, None]:
        return paced(self.write(), gap_s, clock=lambda: self.now_s)


def words(*texts: str) -> list[Chunk]:
    return [Chunk(text=text, token_ids=(number,)) for number, text in enumerate(texts)]


async def texts_of(writer: Writer) -> list[str]:
    return [chunk.text async for chunk in writer.paced()]


async def test_what_comes_at_a_models_usual_pace_is_sent_as_it_comes():
    script = [(1.1 * MIN_GAP_S, chunk) for chunk in [*words("a", "b", "c"), END]]
    assert await texts_of(Writer(script)) == ["a", "b", "c", ""]


async def test_what_comes_faster_goes_in_bunches_and_the_first_word_at_once():
    script = [(0.6 * MIN_GAP_S, chunk) for chunk in [*words("a", "b", "c", "d", "e"), END]]
    assert await texts_of(Writer(script)) == ["a", "bc", "de", ""]


async def test_where_nobody_reads_along_messages_are_farther_apart():
    script = [(0.1, chunk) for chunk in [*words("a", "b", "c", "d", "e"), END]]
    paced_texts = [chunk.text async for chunk in Writer(script).paced(gap_s=0.25)]
    assert paced_texts == ["a", "bcd", "e"]


async def test_a_first_chunk_without_text_does_not_hold_up_the_first_word():
    script = [
        (0.0, chunk) for chunk in [Chunk(token_ids=(7,), tokenizer="t", num_prompt_tokens=3), *words("a")]
    ]
    assert await texts_of(Writer(script)) == ["", "a"]


async def test_the_end_takes_along_what_is_held():
    chunks = [
        chunk async for chunk in Writer([(0.0, chunk) for chunk in [*words("a", "b", "c"), END]]).paced()
    ]
    assert [chunk.text for chunk in chunks] == ["a", "bc"]
    assert (chunks[-1].finish, chunks[-1].token_ids) == (FinishReason.STOP, (1, 2))


async def test_what_is_held_is_passed_on_before_an_error():
    writer = Writer([(0.0, chunk) for chunk in words("a", "b")], error=EngineDead("gone"))
    stream = writer.paced()
    assert [(await anext(stream)).text for _ in range(2)] == ["a", "b"]
    with pytest.raises(EngineDead):
        await anext(stream)


async def test_whoever_leaves_closes_the_engines_stream():
    writer = Writer([(0.0, chunk) for chunk in words("a", "b")])
    stream = writer.paced()
    await anext(stream)
    await stream.aclose()
    assert writer.is_closed


@given(
    st.lists(st.tuples(st.floats(0.0, 2 * MIN_GAP_S), st.text(max_size=3), st.integers(0, 2))), st.booleans()
)
async def test_no_text_and_no_token_is_lost_or_doubled(parts: list[tuple[float, str, int]], ends: bool):
    first = Chunk(tokenizer="t", num_prompt_tokens=5, queue_s=0.25, prefill_s=0.5)
    rest = [(gap_s, Chunk(text=text, token_ids=(9,), num_unnamed_tokens=num)) for gap_s, text, num in parts]
    script = [(0.0, first), *rest, *([(0.0, END)] if ends else [])]
    chunks = [chunk async for chunk in Writer(script).paced()]
    assert "".join(chunk.text for chunk in chunks) == "".join(text for _, text, _ in parts)
    assert sum(len(chunk.token_ids) for chunk in chunks) == len(parts)
    assert sum(chunk.num_unnamed_tokens for chunk in chunks) == sum(num for _, _, num in parts)
    told = [(chunk.tokenizer, chunk.num_prompt_tokens, chunk.queue_s, chunk.prefill_s) for chunk in chunks]
    assert told[0] == ("t", 5, 0.25, 0.5)
    assert all(one == (None, None, 0.0, 0.0) for one in told[1:])
    assert [chunk.finish for chunk in chunks if chunk.finish] == ([FinishReason.STOP] if ends else [])
