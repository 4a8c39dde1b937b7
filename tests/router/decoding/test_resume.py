"""A model that fails while it writes: which model continues the answer, and from where."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.decoding.decode import Decoder
from router.errors import DeadlineExceeded, ModelStalled, ModelUnavailable, Overloaded
from router.model_port import ModelChunk, Resumed
from router.table import META, Deadlines, ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    EXPERTS,
    GENERATION,
    GONE,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer, text_of


def token(text: str, number: int, tokenizer: str | None = None) -> ModelChunk:
    return ModelChunk(text, num_tokens=1, ids=(number,), tokenizer=tokenizer)


def entry(name: str, **changes: object) -> dict[str, ModelEntry]:
    experts = {expert: ModelEntry(app=expert) for expert in EXPERTS}
    return {**experts, name: ModelEntry.model_validate({"app": name, **changes})}


def test_a_model_resumes_from_the_tokens_that_it_chose():
    models = playing(
        meta=[[word("It is "), to("chem")]],
        chem=[[token("H", 7, "t"), token("2", 8), GONE], [token("O", 9, "t"), STOP]],
    )
    text, _ = answer(models)
    again = models["chem"].asks[1]
    assert (text, again.written, again.position) == ("It is H2O", "It is ", 3)
    assert again.resumed == Resumed("H2", (7, 8), "t")


def test_after_two_failures_the_tokens_of_both_calls_are_joined():
    chem: list[list[Item]] = [
        [token("a", 1, "t"), GONE],
        [token("b", 2, "t"), GONE],
        [token("c", 3, "t"), STOP],
    ]
    models = playing(chem=chem)
    assert answer(models, DIRECT)[0] == "abc"
    assert models["chem"].asks[2].resumed == Resumed("ab", (1, 2), "t")


@pytest.mark.parametrize(
    "chem",
    [
        [[word("a"), GONE]],  # an engine without token ids
        [[token("a", 1, "old"), GONE], [token("b", 2, "new"), GONE]],  # a rollout replaced the tokenizer
        [[token("a", 1, "t"), word("b"), GONE]],
    ],
)
def test_if_the_tokens_are_not_certain_the_model_resumes_from_the_text(chem: list[list[Item]]):
    models = playing(chem=[*chem, [word("."), STOP]])
    text, _ = answer(models, DIRECT, retries=3)
    last = models["chem"].asks[-1]
    assert (last.resumed, last.written + ".") == (None, text)


def test_another_model_resumes_from_the_text():
    models = playing(
        meta=[[token("a", 1, "t"), to("chem")], [token("c", 3, "t"), STOP]],
        chem=[[token("b", 2, "t"), GONE], [GONE]],
    )
    assert answer(models)[0] == "abc"
    assert [(ask.written, ask.resumed) for ask in models[META].asks] == [("", None), ("ab", None)]


def test_retries_count_from_the_last_token():
    chem: list[list[Item]] = [[word(text), GONE] for text in "abc"]
    chem.append([word("d"), STOP])
    assert answer(playing(chem=chem), DIRECT, retries=1)[0] == "abcd"


def test_a_stalled_replica_is_reported():
    routes = FakeRoutes()
    models = playing(chem=[[word("a"), Pause()], [word("b"), STOP]])
    assert answer(models, DIRECT, routes)[0] == "ab"
    assert routes.stalls == [("chem", DIRECT.request_id)]


@pytest.mark.parametrize("first", [[Pause(3), word("a"), STOP], [word("a"), Pause(3), STOP]])
def test_the_deadlines_of_a_model_override_the_general_ones(first: list[Item]):
    patient, hasty = entry("chem"), entry("chem", first_token_s=2, gap_s=2)
    deadlines = Deadlines(first_token_s=4, gap_s=4)
    for experts, num_tries in ((patient, 1), (hasty, 2)):
        models = playing(chem=[first, [word("a"), STOP]])
        answer(models, DIRECT, experts=experts, deadlines=deadlines)
        assert num_calls(models) == {"chem": num_tries}


def test_text_held_back_for_a_message_does_not_look_like_a_stall():
    models = playing(chem=[[word("a"), STOP]])
    answer(models, replace(DIRECT, message_gap_s=0.25), experts=entry("chem", gap_s=0.4))
    assert models["chem"].asks[0].message_gap_s == 0.1


def test_an_unavailable_expert_is_waited_for_with_on_unavailable_wait():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(meta=[[to("chem")]], chem=[[word("back again"), STOP]])
    assert answer(models, GENERATION, routes, experts=entry("chem", on_unavailable="wait"))[0] == "back again"
    assert "chem" in models[META].asks[0].allowed


def test_an_unavailable_expert_is_not_called_otherwise():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(meta=[[word("by meta"), STOP]])
    assert answer(models, GENERATION, routes)[0] == "by meta"
    assert models[META].asks[0].allowed == ("law",)


def test_the_meta_replaces_an_expert_at_once_if_its_last_replica_is_lost():
    """The client must not wait as long as for a first token, when the meta can go on."""
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause()})
    models = playing(meta=[[to("chem")], [word("b"), STOP]], chem=[[word("a"), GONE]])

    def leave(_: object) -> list[Item]:
        routes.ready = ("law", META)
        return [word("a"), GONE]

    routes.ready = ("chem", "law", META)
    models["chem"].script = leave
    text, _ = answer(models, GENERATION, routes, retries=9)
    assert (text, num_calls(models)["chem"]) == ("ab", 1)


def test_an_unavailable_expert_is_waited_for_if_it_is_addressed_by_name():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(chem=[[word("b"), STOP]])
    assert answer(models, DIRECT, routes)[0] == "b"


def test_an_expert_that_does_not_come_back_in_time_is_a_clear_error():
    routes = FakeRoutes(ready=(META,), returns={"chem": Pause()})
    with pytest.raises(ModelUnavailable, match="no replica of chem came back in time"):
        answer(playing(), DIRECT, routes)


def test_waiting_for_an_unavailable_expert_ends_with_the_total_time():
    routes = FakeRoutes(ready=(META,), returns={"chem": Pause()})
    deadlines = Deadlines(first_token_s=30, total_s=40)
    with pytest.raises(DeadlineExceeded):
        answer(playing(), DIRECT, routes, retries=9, deadlines=deadlines)


def test_a_stalled_model_fails_when_its_retries_are_used_up():
    with pytest.raises(ModelStalled):
        answer(playing(chem=[[Pause()], [Pause()]]), DIRECT)


class RecordingAdmission(Admission):
    """Records the calls, and whether each had output."""

    def __init__(self) -> None:
        super().__init__(lambda _: 32)
        self.entries: list[tuple[str, str, bool]] = []

    @asynccontextmanager
    async def slot(
        self, model: str, app: str, context: AdmissionContext, *, has_output: bool, left_s: float
    ) -> AsyncIterator[None]:
        self.entries.append((model, context.key, has_output))
        async with super().slot(model, app, context, has_output=has_output, left_s=left_s):
            yield


def test_only_the_first_call_of_an_answer_waits_for_a_slot():
    models = playing(meta=[[word("a"), to("chem")]], chem=[[GONE], [word("b"), STOP]])
    admission, context = RecordingAdmission(), AdmissionContext(queue_s=5.0, max_waiting=256, key="billing")
    generation = replace(GENERATION, admission=context)
    decoder = Decoder(expert_table(), models, FakeRoutes(), admission=admission)

    async def decoded() -> str:
        return await text_of(decoder, generation)

    assert in_virtual_time(decoded()) == "ab"
    has_output = [("chem", "billing", True)]
    assert admission.entries == [(META, "billing", False), *has_output, *has_output]
    assert (admission.num_running, admission.num_waiting) == (0, 0)


def test_a_request_with_more_choices_than_there_are_slots_is_served():
    """If one choice is refused, all are, so such a request could never be served otherwise."""
    admission = Admission(lambda _: 2)
    models = {META: FakeModel(lambda ask: [word("a"), Pause(20), STOP])}
    decoder = Decoder(expert_table(deadlines=Deadlines(gap_s=30)), models, FakeRoutes(), admission=admission)
    generation = replace(GENERATION, admission=AdmissionContext(queue_s=5.0, max_waiting=256))

    async def choice() -> str:
        return await text_of(decoder, generation)

    async def all_choices() -> list[str]:
        return await asyncio.gather(*(choice() for _ in range(8)))

    assert in_virtual_time(all_choices()) == ["a"] * 8


def test_choices_that_wait_already_may_wait_on_once_another_choice_of_their_request_has_a_slot():
    """Regression: behind one other answer, all choices but the first were refused after `queue_s`."""
    admission = Admission(lambda _: 1)
    models = {META: FakeModel(lambda ask: [word("a"), Pause(1), STOP])}
    decoder = Decoder(expert_table(), models, FakeRoutes(), admission=admission)

    async def choice(context: AdmissionContext) -> str:
        generation = replace(GENERATION, admission=context)
        return await text_of(decoder, generation)

    async def all_answers() -> list[str]:
        other, request = (AdmissionContext(queue_s=3.0, max_waiting=256) for _ in range(2))
        return await asyncio.gather(choice(other), *(choice(request) for _ in range(8)))

    assert in_virtual_time(all_answers()) == ["a"] * 9


def test_a_refused_answer_calls_no_model():
    admission = Admission(lambda _: 2)
    decoder = Decoder(expert_table(), models := playing(), FakeRoutes(), admission=admission)

    async def refused() -> None:
        async with AsyncExitStack() as others:
            for _ in range(2):
                context = AdmissionContext(queue_s=1, max_waiting=1)
                slot = admission.slot(META, META, context, has_output=False, left_s=1)
                await others.enter_async_context(slot)
            with pytest.raises(Overloaded, match="no slot was released within 60 s"):
                await anext(decoder.decode(GENERATION))

    in_virtual_time(refused())
    assert num_calls(models) == {}
