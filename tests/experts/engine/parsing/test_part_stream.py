"""The parts of a generation, chunk by chunk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from experts.engine.chunk import EngineChunk, FinishReason, Part, ReasoningPart, TextPart
from experts.engine.parsing.part_stream import PartStream
from experts.engine.parsing.registry import ParserChoice
from experts.engine.request import EngineRequest

REQUEST = EngineRequest("r", messages=({"role": "user", "content": "q"},))
CHOICE = ParserChoice(reasoning_parser="qwen3")
TEXT = "<think>hm </thi</think>It is <so>."


def stream(resumed: str = "") -> PartStream:
    parser = CHOICE.parser(REQUEST, "")
    assert parser is not None
    return PartStream(parser, resumed)


def texts(parts: list[Part]) -> tuple[str, str]:
    """Thoughts and text."""
    thoughts = "".join(part.text for part in parts if isinstance(part, ReasoningPart))
    return thoughts, "".join(part.text for part in parts if isinstance(part, TextPart))


def test_what_is_held_back_comes_with_the_end():
    parts = stream()
    assert parts.add(EngineChunk("<thi")).parts == ()
    assert parts.add(EngineChunk("s", finish=FinishReason.STOP)).parts == (TextPart("<this"),)


def test_a_cancelled_generation_keeps_back_what_another_replica_reads_again():
    assert stream().add(EngineChunk("<thi", finish=FinishReason.CANCELLED)).parts == ()


@given(st.integers(0, len(TEXT)), st.integers(0, len(TEXT)))
def test_a_resumed_generation_has_the_parts_that_are_still_missing(lost_at: int, cut: int):
    lost = stream().add(EngineChunk(TEXT[:lost_at]))
    again = stream(resumed=TEXT[:lost_at])
    rest = TEXT[lost_at:]
    pieces = [EngineChunk(rest[:cut]), EngineChunk(rest[cut:], finish=FinishReason.STOP)]
    parts = [part for chunk in (lost, *map(again.add, pieces)) for part in chunk.parts or ()]
    assert texts(parts) == ("hm </thi", "It is <so>.")
