"""Whatever models write, the events keep to their grammar, and a client gets each text once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.api.body import parse
from router.api.sse import to_json
from router.decoding.delta import Delta, PromptDelta, ReasoningDelta, TextDelta, ToolCallDelta
from router.decoding.generation import Done, ModelUsage
from router.decoding.timing import Timing
from router.dialects.responses.answer import ResponseAnswer
from router.dialects.responses.request import ResponsesRequest
from router.errors import ModelFailed, Overloaded, RouterError
from router.model_port import Finish
from router.parts import Alternative, TokenLogprobs
from tests.fakes.models import FakeGateway
from tests.router.dialects.responses.event_grammar import Reader, decoded, texts

TABLE = FakeGateway({}).table
TEXT = st.text(max_size=4)
LOGPROBS = st.sampled_from([(), (TokenLogprobs("a", b"a", -0.5, (Alternative("a", b"a", -0.5),)),)])
PIECE = st.one_of(
    st.builds(TextDelta, TEXT, st.just("roman"), LOGPROBS),
    st.builds(ReasoningDelta, TEXT, st.just("roman")),
    st.builds(lambda index, text: (index, text), st.integers(0, 3), TEXT),
    st.just(PromptDelta((), "meta")),
)
ENDS = st.sampled_from([Finish.STOP, Finish.LENGTH, ModelFailed("broke"), Overloaded("full")])


def deltas(pieces: list[Any]) -> list[Delta]:
    """The pieces of calls, with a name and an id for the first piece of each."""
    begun: set[int] = set()
    found: list[Delta] = []
    for piece in pieces:
        if not isinstance(piece, tuple):
            found.append(piece)
            continue
        index, arguments = piece
        is_first = index not in begun
        begun.add(index)
        call_id, name = (f"call_roman_{index}", f"f{index}") if is_first else (None, None)
        found.append(ToolCallDelta(index, call_id, name, arguments, "roman"))
    return found


def done(finish: Finish) -> Done:
    return Done(
        finish=finish,
        num_prompt_tokens=3,
        num_cached_tokens=2,
        num_completion_tokens=5,
        has_tool_calls=False,
        stop_reason=None,
        spans=[],
        drafts=[],
        usage_by_model={"roman": ModelUsage(1, 3, 5, 2)},
        timing=Timing(),
        decisions=[],
        author="roman",
    )


def rendered(items: list[Delta], end: Finish | RouterError, **fields: Any) -> list[dict[str, Any]]:
    asked = parse(ResponsesRequest, to_json({"input": "9?", **fields}))
    answer = ResponseAnswer(asked, asked.to_chat(), TABLE, "")
    written: list[bytes] = []

    async def stream() -> AsyncGenerator[Delta | Done, None]:
        for item in items:
            yield item
        if isinstance(end, RouterError):
            raise end
        yield done(end)

    async def write(events: bytes) -> None:
        written.append(events)

    async def main() -> None:
        try:
            await answer.write_events([stream()], write)
        except RouterError as error:
            written.append(answer.framing.error(error, "request-1"))

    asyncio.run(main())
    return decoded(b"".join(written).decode())


@given(pieces=st.lists(PIECE, max_size=12), end=ENDS)
def test_events_keep_to_their_grammar_and_lose_no_text(pieces: list[Any], end: Finish | RouterError):
    items = deltas(pieces)
    reader = Reader().read(rendered(items, end))
    output = reader.response["output"]
    for kind, delta in (("message", TextDelta), ("reasoning", ReasoningDelta)):
        wanted = "".join(item.text for item in items if isinstance(item, delta))
        assert "".join(texts(item) for item in output if item["type"] == kind) == wanted
    for index in range(4):
        of_call = [item for item in items if isinstance(item, ToolCallDelta) and item.index == index]
        calls = [texts(item) for item in output if item.get("call_id") == f"call_roman_{index}"]
        assert calls == (["".join(item.arguments for item in of_call)] if of_call else [])
    logprobs = sum(len(item.logprobs) for item in items if isinstance(item, TextDelta))
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    assert sum(len(part["logprobs"]) for part in parts) == logprobs


@settings(max_examples=25)
@given(pieces=st.lists(PIECE, max_size=8), end=st.sampled_from([Finish.STOP, Finish.LENGTH]))
def test_a_whole_answer_is_what_the_last_event_holds(pieces: list[Any], end: Finish):
    items = deltas(pieces)
    last = rendered(items, end)[-1]["response"]
    asked = parse(ResponsesRequest, b'{"input": "9?"}')

    async def stream() -> AsyncGenerator[Delta | Done, None]:
        for item in items:
            yield item
        yield done(end)

    body = asyncio.run(ResponseAnswer(asked, asked.to_chat(), TABLE, "").body([stream()]))
    assert without_ids(body) == without_ids(last)


def without_ids(response: dict[str, Any]) -> dict[str, Any]:
    output = [{**item, "id": ""} for item in response["output"]]
    return {**response, "id": "", "created_at": 0, "completed_at": 0, "output": output}


def test_a_call_is_done_as_soon_as_another_item_begins():
    items = deltas([(0, '{"a": '), (0, "1}"), (1, "{}"), TextDelta("so", "roman")])
    kinds = [event["type"] for event in rendered(items, Finish.STOP)]
    is_done = [index for index, kind in enumerate(kinds) if kind == "response.output_item.done"]
    is_added = [index for index, kind in enumerate(kinds) if kind == "response.output_item.added"]
    assert is_done[0] < is_added[1] < is_done[1] < is_added[2]


def test_pieces_of_two_calls_may_come_by_turns():
    items = deltas([(0, '{"a": '), (1, '{"b": '), (0, "1}"), (1, "2}"), (0, " ")])
    output = rendered(items, Finish.STOP)[-1]["response"]["output"]
    assert [json.loads(item["arguments"]) for item in output] == [{"a": 1}, {"b": 2}]


def test_an_answer_without_text_has_an_empty_message():
    [item] = rendered([], Finish.STOP)[-1]["response"]["output"]
    assert (item["type"], texts(item)) == ("message", "")


def test_an_answer_that_is_cut_off_is_incomplete():
    response = rendered([TextDelta("so", "roman")], Finish.LENGTH)[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in response["output"]] == ["incomplete"]
    assert response["completed_at"] is None


@pytest.mark.parametrize(
    ("error", "code"), [(ModelFailed("broke"), "server_error"), (Overloaded("full"), "rate_limit_exceeded")]
)
def test_a_stream_that_fails_says_why_and_what_was_written(error: RouterError, code: str):
    items = deltas([TextDelta("so", "roman"), (0, '{"a"')])
    *_, failure, last = rendered(items, error)
    assert (failure["type"], failure["code"], failure["message"]) == ("error", error.code, error.message)
    assert (last["response"]["error"]["code"], last["response"]["status"]) == (code, "failed")
    assert [texts(item) for item in last["response"]["output"]] == ["so", '{"a"']


def test_a_failure_before_any_text_is_a_whole_stream():
    assert [event["type"] for event in rendered([], ModelFailed("broke"))] == [
        "response.created",
        "response.in_progress",
        "error",
        "response.failed",
    ]


def test_usage_counts_thoughts_apart():
    usage = rendered([], Finish.STOP)[-1]["response"]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (3, 5, 8)
    assert usage["output_tokens_details"] == {"reasoning_tokens": 2}


def test_the_tools_of_a_response_are_those_of_the_sdk():
    tools = [
        {"type": "function", "name": "f"},
        {"type": "namespace", "name": "ns", "tools": [{"type": "function", "name": "f"}]},
    ]
    assert [
        tool["type"] for tool in Reader().read(rendered([], Finish.STOP, tools=tools)).response["tools"]
    ] == [
        "function",
        "namespace",
    ]


def test_a_trace_names_the_writer_of_every_delta():
    events = rendered([TextDelta("so", "roman")], Finish.STOP, routing={"trace": True})
    deltas_of_text = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [event["routing"] for event in deltas_of_text] == [{"model": "roman"}]
    assert events[-1]["response"]["routing"]["spans"] == []
