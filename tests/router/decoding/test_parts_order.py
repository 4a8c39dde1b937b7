"""What a client sees does not depend on how an answer was cut into chunks."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.decoding.delta import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.transcript import StopRule, Transcript
from router.model_port import ModelChunk
from router.parts import Part, ReasoningPart, TextPart, ToolCallPart

PARTS = st.lists(
    st.builds(TextPart, st.text("ab", min_size=1, max_size=3))
    | st.builds(ReasoningPart, st.text("c", min_size=1, max_size=3))
    | st.builds(ToolCallPart, st.just(0), st.just("f"), st.just("{}")),
    max_size=6,
)


def shown(chunks: list[list[Part]], *stop: str) -> list[tuple[str, str]]:
    """What the client got, in order; neighbours of one kind joined."""
    transcript = Transcript(StopRule(stop))
    transcript.begin("meta")
    deltas: list[Delta] = []
    for parts in chunks:
        raw = "".join(part.text for part in parts if isinstance(part, TextPart))
        if not transcript.stopped:
            deltas += transcript.add(ModelChunk(raw, num_tokens=1, parts=tuple(parts)))
    deltas += transcript.close()
    pairs = [(type(each).__name__, _content(each)) for each in deltas]
    return [(kind, "".join(text for _, text in own)) for kind, own in groupby(pairs, lambda pair: pair[0])]


def _content(delta: Delta) -> str:
    match delta:
        case TextDelta() | ReasoningDelta():
            return delta.text
        case ToolCallDelta():
            return f"{delta.name}{delta.arguments};"
        case _:
            raise AssertionError(delta)


@given(parts=PARTS)
def test_parts_of_one_chunk_come_in_their_order(parts: list[Part]):
    assert shown([parts]) == shown([[part] for part in parts])


@given(parts=PARTS, cut=st.integers(0, 6))
def test_nothing_after_a_stop_string_is_shown(parts: list[Part], cut: int):
    apart = shown([[part] for part in parts], "ab")
    assert shown([parts], "ab") == shown([parts[:cut], parts[cut:]], "ab") == apart


def test_text_that_may_begin_a_stop_string_comes_before_the_call_that_follows():
    parts: list[Part] = [TextPart("Let me look.\n\n"), ToolCallPart(0, "f", "{}")]
    expected = [("TextDelta", "Let me look.\n\n"), ("ToolCallDelta", "f{};")]
    assert shown([parts], "\n\nHuman:") == shown([[part] for part in parts], "\n\nHuman:") == expected


@pytest.mark.parametrize("stop", ["END", "here END"])
def test_a_stop_string_before_a_call_ends_the_answer(stop: str):
    transcript = Transcript(StopRule((stop,)))
    transcript.begin("meta")
    parts = (TextPart("stop here END now"), ToolCallPart(0, "f", "{}"))
    [delta] = transcript.add(ModelChunk("…", num_tokens=1, parts=parts))
    assert isinstance(delta, TextDelta)
    assert delta.text == "stop here END now"[: "stop here END now".index(stop)]
    assert (transcript.stopped, transcript.has_tool_calls) == (True, False)
