"""The events of an answer follow Anthropic's grammar, and tell of everything that was written."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import RawMessageStreamEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.generation import Done
from router.decoding.timing import Timing
from router.dialects.messages.answer import MessageAnswer
from router.dialects.messages.request import MessagesRequest
from router.model_port import Finish
from tests.fakes.models import FakeGateway

WRITERS = st.sampled_from(["meta", "roman"])
TEXTS = st.builds(TextDelta, st.text(max_size=6), WRITERS)
OTHERS = st.builds(ReasoningDelta, st.text(max_size=6), WRITERS) | st.just(PromptDelta((), "meta"))
CUTS = st.lists(st.integers(0, 40), max_size=3)
INPUTS = st.dictionaries(st.text(max_size=4), st.integers() | st.text(max_size=4), max_size=2)


@st.composite
def calls_by_turns(draw: st.DrawFn) -> tuple[list[Delta], list[dict[str, Any]]]:
    """The pieces of several calls in any order that keeps that of each call, with text among them."""
    inputs = draw(st.lists(INPUTS, min_size=2, max_size=4))
    queues = []
    for index, arguments in enumerate(map(json.dumps, inputs)):
        cut = draw(st.integers(0, len(arguments)))
        begin = ToolCallDelta(index, f"call_meta_{index}", f"f{index}", "", "meta")
        pieces = [
            ToolCallDelta(index, None, None, text, "meta") for text in (arguments[:cut], arguments[cut:])
        ]
        queues.append([begin, *pieces])
    order = draw(st.permutations([index for index, pieces in enumerate(queues) for _ in pieces]))
    items: list[Delta] = []
    for index in order:
        items += [queues[index].pop(0), *draw(st.lists(TEXTS, max_size=1))]
    return items, inputs


@st.composite
def deltas(draw: st.DrawFn) -> tuple[list[Delta], list[dict[str, Any]]]:
    """What models may write, and the inputs of its calls. Text may come among the pieces of a call."""
    items: list[Delta] = draw(st.lists(TEXTS | OTHERS, max_size=4))
    inputs = draw(st.lists(INPUTS, max_size=3))
    for index, arguments in enumerate(map(json.dumps, inputs)):
        cuts = [0, *sorted(min(cut, len(arguments)) for cut in draw(CUTS)), len(arguments)]
        items.append(ToolCallDelta(index, f"call_meta_{index}", f"f{index}", "", "meta"))
        for start, end in zip(cuts, cuts[1:], strict=False):
            items += draw(st.lists(TEXTS | OTHERS, max_size=1))
            items.append(ToolCallDelta(index, None, None, arguments[start:end], "meta"))
        items += draw(st.lists(TEXTS | OTHERS, max_size=3))
    return items, inputs


def done(has_tool_calls: bool = False, **fields: Any) -> Done:
    end = Done(
        finish=Finish.STOP,
        num_prompt_tokens=3,
        num_cached_tokens=2,
        num_completion_tokens=4,
        has_tool_calls=has_tool_calls,
        stop_reason=None,
        spans=[],
        usage_by_model={},
        timing=Timing(_began_s=0.0),
        decisions=[],
        drafts=[],
        author="meta",
    )
    return replace(end, **fields)


async def stream(items: Sequence[Delta | Done]) -> AsyncGenerator[Delta | Done, None]:
    for item in items:
        yield item


def answer(**fields: Any) -> MessageAnswer:
    body = {"max_tokens": 9, "messages": [{"role": "user", "content": "9?"}], "stream": True, **fields}
    return MessageAnswer(MessagesRequest.model_validate(body).to_chat(), FakeGateway({}).table)


def events_of(items: Sequence[Delta | Done], **fields: Any) -> list[dict[str, Any]]:
    written = bytearray()

    async def write(content: bytes) -> None:
        written.extend(content)

    asyncio.run(answer(**fields).write_events([stream(items)], write))
    *events, rest = written.decode().split("\n\n")
    assert rest == ""
    parsed = []
    for event in events:
        name, data = event.split("\n")
        parsed.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {parsed[-1]['type']}"
    return parsed


DELTAS = {
    "text": {"text_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


def follow(events: Sequence[dict[str, Any]]) -> None:
    """The state machine of the grammar: fails at the first event that may not come where it does."""
    state, index, kind = "before", -1, ""
    for event in events:
        match state, event["type"]:
            case "before", "message_start":
                state = "between"
            case "between", "content_block_start":
                index, kind, state = index + 1, event["content_block"]["type"], "inside"
                assert event["index"] == index
            case "inside", "content_block_delta":
                assert event["index"] == index
                assert event["delta"]["type"] in DELTAS[kind]
            case "inside", "content_block_stop":
                assert event["index"] == index
                state = "between"
            case "between", "message_delta":
                state = "ended"
            case "ended", "message_stop":
                state = "over"
            case _:
                pytest.fail(f"{event['type']} {state}")
    assert state == "over"


EVENTS: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)


def accumulated(events: Sequence[dict[str, Any]]) -> Any:
    """The message that the SDK makes of the events."""
    message, inputs = None, dict[int, bytes]()
    for event in map(EVENTS.validate_python, events):
        message = accumulate_event(event=event, current_snapshot=message, json_bufs=inputs)
    return message


@given(written=deltas() | calls_by_turns(), trace=st.booleans())
def test_any_answer_follows_the_grammar_and_is_whole(
    written: tuple[list[Delta], list[dict[str, Any]]], trace: bool
):
    items, inputs = written
    end = done(has_tool_calls=bool(inputs))
    events = events_of([*items, end], routing={"trace": trace})
    follow(events)
    message = accumulated(events)
    assert _joined(message.content, "text") == "".join(i.text for i in items if isinstance(i, TextDelta))
    thoughts = "".join(i.text for i in items if isinstance(i, ReasoningDelta))
    assert _joined(message.content, "thinking") == thoughts
    calls = [block for block in message.content if block.type == "tool_use"]
    assert {(call.id, call.name): call.input for call in calls} == {
        (f"call_meta_{i}", f"f{i}"): each for i, each in enumerate(inputs)
    }
    assert len(calls) == len(inputs)
    assert message.stop_reason == ("tool_use" if inputs else "end_turn")

    whole = asyncio.run(answer(stream=False).body([stream([*items, end])]))
    assert whole["content"] == [block.model_dump(exclude_unset=True) for block in message.content]


def _joined(content: Any, kind: str) -> str:
    return "".join(getattr(block, kind) for block in content if block.type == kind)


def test_an_answer_without_content_has_no_blocks():
    events = events_of([done()])
    assert [event["type"] for event in events] == ["message_start", "message_delta", "message_stop"]


@pytest.mark.parametrize(
    ("end", "reason", "sequence"),
    [
        (done(), "end_turn", None),
        (done(has_tool_calls=True), "tool_use", None),
        (done(has_tool_calls=True, finish=Finish.LENGTH), "max_tokens", None),
        (done(stop_reason="stop"), "stop_sequence", "stop"),
        (done(stop_reason=7), "end_turn", None),
    ],
)
def test_the_reason_of_the_end(end: Done, reason: str, sequence: str | None):
    [_, delta, _] = events_of([end])
    assert delta["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
    usage = delta["usage"]
    assert (usage["input_tokens"], usage["cache_read_input_tokens"], usage["output_tokens"]) == (1, 2, 4)


@pytest.mark.parametrize(
    ("arguments", "parsed"), [("", {}), ('{"a": [1, ', {"a": [1]}), ("[1]", {}), ("{]", {})]
)
def test_the_input_of_a_call_is_an_object_even_if_it_was_cut_off(arguments: str, parsed: dict[str, Any]):
    call: list[Delta | Done] = [
        ToolCallDelta(0, "call_meta_0", "f", arguments, "meta"),
        done(has_tool_calls=True),
    ]
    whole = asyncio.run(answer().body([stream(call)]))
    assert whole["content"] == [{"type": "tool_use", "id": "call_meta_0", "name": "f", "input": parsed}]


@pytest.mark.parametrize("thinking", [{"type": "disabled"}, {"type": "adaptive", "display": "omitted"}])
def test_thoughts_can_be_left_out(thinking: dict[str, str]):
    items: list[Delta | Done] = [ReasoningDelta("Hm.", "meta"), TextDelta("IX", "meta"), done()]
    assert [block.type for block in accumulated(events_of(items, thinking=thinking)).content] == ["text"]
