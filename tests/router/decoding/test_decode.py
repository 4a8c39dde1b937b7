"""The decode loop: one answer from the meta through the experts to the end, with and without faults."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decoding.decode import Decoder
from router.decoding.delta import TextDelta
from router.decoding.generation import GenerationRequest
from router.decoding.transcript import StopRule
from router.errors import (
    DeadlineExceeded,
    ModelFailed,
    ModelStalled,
    RouterError,
)
from router.model_port import Finish, ModelChunk
from router.table import META
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    EXPERTS,
    GENERATION,
    GONE,
    STOP,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer
from tests.support.recovery_worlds import FAULTS, QUICK, STARTS, World, live, worlds


def test_an_expert_finishes_the_answer_after_a_hand_over():
    models = playing(meta=[[word("It is "), to("chem", 0.7)]], chem=[[word("H2"), word("O."), STOP]])
    text, done = answer(models)
    assert (text, done.finish, done.num_completion_tokens) == ("It is H2O.", Finish.STOP, 3)
    assert [(s.model, s.text, s.num_tokens, s.probability) for s in done.spans] == [
        ("meta", "It is ", 1, None),
        ("chem", "H2O.", 2, 0.7),
    ]
    ask = models["chem"].asks[0]
    assert (ask.written, ask.position, ask.allowed) == ("It is ", 1, ())


def test_experts_return_control_until_the_hand_overs_are_used_up():
    meta = [[word("a"), to("chem")], [word("c"), to("law")], [word("e"), STOP]]
    models = playing(meta=meta, chem=[[word("b"), STOP]], law=[[word("d"), STOP]])
    text, done = answer(models, after_expert="return", max_handoffs=2)
    assert (text, done.finish) == ("abcde", Finish.STOP)
    assert [(ask.written, ask.allowed) for ask in models[META].asks] == [
        ("", EXPERTS),
        ("ab", EXPERTS),
        ("abcd", ()),
    ]


def test_a_stop_token_ends_the_answer_even_if_experts_return_control():
    models = playing(meta=[[to("chem")]], chem=[[word("b"), ModelChunk(finish=Finish.STOP, stop_token=7)]])
    _, done = answer(models, after_expert="return")
    assert (done.stop_reason, len(models[META].asks)) == (7, 1)


def test_an_expert_with_a_full_context_window_does_not_return_control():
    models = playing(meta=[[to("chem")]], chem=[[word("b"), ModelChunk(finish=Finish.LENGTH)]])
    assert answer(models, after_expert="return")[1].finish is Finish.LENGTH


def test_the_token_budget_spans_the_hand_over():
    models = playing(
        meta=[[word("a"), word("b"), to("chem")]], chem=[[word("c"), ModelChunk(finish=Finish.LENGTH)]]
    )
    text, done = answer(models, replace(GENERATION, max_tokens=3))
    assert (text, done.finish, models["chem"].asks[0].max_tokens) == ("abc", Finish.LENGTH, 1)


def test_a_budget_spent_exactly_at_the_hand_over_ends_the_answer():
    models = playing(meta=[[word("a"), word("b"), to("chem")]])
    text, done = answer(models, replace(GENERATION, max_tokens=2))
    assert (text, done.finish, num_calls(models)) == ("ab", Finish.LENGTH, {META: 1})


@pytest.mark.parametrize(
    "fault", [GONE, ModelFailed("x"), DeadlineExceeded("x"), ModelChunk(finish=Finish.CANCELLED)]
)
@pytest.mark.parametrize("generation", [GENERATION, DIRECT])
def test_a_fault_after_the_last_token_has_no_effect(fault: Item, generation: GenerationRequest):
    models = playing(**{generation.target.writer: [[word("a"), word("b"), fault]]})
    text, done = answer(models, replace(generation, max_tokens=2), retries=0)
    assert (text, done.finish, num_calls(models)) == ("ab", Finish.LENGTH, {generation.target.writer: 1})


def test_a_stop_string_begun_by_the_meta_and_ended_by_the_expert_stops_the_answer():
    models = playing(meta=[[word("a🧪"), to("chem")]], chem=[[word("🧪b"), GONE]])
    text, done = answer(models, replace(GENERATION, stop=StopRule(("🧪🧪",))))
    assert (text, done.finish, done.num_completion_tokens) == ("a", Finish.STOP, 2)


def test_the_beginning_of_a_stop_string_at_the_end_of_the_answer_is_shown():
    models = playing(meta=[[word("a<"), STOP]])
    assert answer(models, replace(GENERATION, stop=StopRule(("<end>",))))[0] == "a<"


def test_with_when_start_the_meta_decides_before_the_first_word_only():
    models = playing(meta=[[to("chem")], [word("b"), STOP]], chem=[[word("a"), STOP]])
    answer(models, when="start", after_expert="return")
    assert [(ask.allowed, ask.only_at_start) for ask in models[META].asks] == [(EXPERTS, True), ((), True)]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Pause(29), word("a"), Pause(9), STOP], None),
        ([Pause(31), word("a"), STOP], ModelStalled),
        ([ModelChunk(num_prompt_tokens=3), Pause(29), word("a"), STOP], None),
        ([word("a"), Pause(11), STOP], ModelStalled),
        ([item for _ in range(9) for item in (word("a"), Pause(9))], DeadlineExceeded),
    ],
)
def test_the_first_token_every_gap_and_the_whole_answer_have_a_deadline(
    script: list[Item], error: type[RouterError] | None
):
    models = playing(chem=[script])
    deadlines = {"first_token_s": 30, "gap_s": 10, "total_s": 60}
    if error is None:
        assert answer(models, DIRECT, retries=0, deadlines=deadlines)[0] == "a"
        return
    with pytest.raises(error):
        answer(models, DIRECT, retries=0, deadlines=deadlines)


@pytest.mark.parametrize("how", ["closes", "is cancelled"])
def test_a_client_that_leaves_closes_the_call(how: str):
    models = playing(meta=[[word("a"), to("chem")]], chem=[[word("b"), Pause()]])

    async def leave() -> None:
        reached = asyncio.Event()

        async def read() -> None:
            events = Decoder(expert_table(), models, FakeRoutes()).decode(GENERATION)
            try:
                assert [await anext(events), await anext(events)] == [
                    TextDelta("a", META),
                    TextDelta("b", "chem"),
                ]
                assert models["chem"].num_open == 1
                reached.set()
                if how == "is cancelled":
                    await anext(events)
            finally:
                await events.aclose()
                assert not any(model.num_open for model in models.values()), (
                    "closed by the decoder, not by the event loop"
                )

        reader = asyncio.create_task(read())
        await reached.wait()
        if how == "is cancelled":
            reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled() == (how == "is cancelled")
        assert reader.cancelled() or reader.exception() is None

    in_virtual_time(leave())


@pytest.mark.parametrize("fault", [GONE, ModelChunk(finish=Finish.CANCELLED)])
def test_a_probe_is_retried_when_a_replica_is_lost(fault: Item):
    answer = ModelChunk(distribution={"chem": 0.8}, finish=Finish.STOP)
    models = playing(meta=[[fault], [ModelChunk(num_prompt_tokens=3), answer]])
    found = in_virtual_time(Decoder(expert_table(), models, FakeRoutes()).distribution(GENERATION))
    assert (found.chunk, found.masked) == (answer, {})
    assert all(ask.probe and ask.allowed == EXPERTS for ask in models[META].asks)


@settings(deadline=None, max_examples=200)
@given(worlds(st.none() | FAULTS, STARTS), st.sampled_from([None, None, None, 1, 2, 5]))
def test_no_text_is_lost_or_doubled_by_any_fault(world: World, leave_after: int | None):
    text, done = live(world, leave_after)
    expected, finishes = world.expected()
    if done is not None and world.window_is_full():  # the text may end with the beginning of a stop string
        assert (done.finish, text) == (Finish.LENGTH, "".join(span.text for span in done.spans))
        assert world.received.startswith(text)
        return
    assert expected.startswith(text)
    if done is None:
        return
    assert text == expected == "".join(span.text for span in done.spans)
    assert done.finish in finishes
    assert done.num_completion_tokens == len(world.received.encode())
    assert done.num_completion_tokens == sum(u.num_completion_tokens for u in done.usage_by_model.values())


@settings(deadline=None)
@given(worlds(st.none(), st.just(QUICK)), st.integers(1, 4), st.booleans())
def test_the_answer_does_not_depend_on_the_chunk_size(world: World, chunk_size: int, joined: bool):
    cut = {
        name: [replace(call, chunk_size=chunk_size, joined=joined) for call in calls]
        for name, calls in world.calls.items()
    }
    (text, done), (text_cut, done_cut) = live(replace(world, calls=cut)), live(world)
    assert done is not None
    assert done_cut is not None
    assert (text_cut, done_cut.finish) == (text, done.finish)
    assert [(s.model, s.text) for s in done_cut.spans] == [(s.model, s.text) for s in done.spans]
