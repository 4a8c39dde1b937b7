"""A model that is lost while it writes: whom the answer goes on with, and from what."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from router.admission import Admission
from router.decode import Decoder
from router.errors import DeadlineExceeded, ModelStalled, ModelUnavailable, Overloaded
from router.job import Delta
from router.model import Piece, Resumed
from router.table import META, Deadlines, ModelEntry
from tests.answering import answer
from tests.fake_routes import FakeRoutes
from tests.fakes import (
    DIRECT,
    EXPERTS,
    GONE,
    JOB,
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


def token(text: str, number: int, tokenizer: str | None = None) -> Piece:
    return Piece(text, num_tokens=1, ids=(number,), tokenizer=tokenizer)


def entry(name: str, **changes: object) -> dict[str, ModelEntry]:
    experts = {expert: ModelEntry(app=expert) for expert in EXPERTS}
    return {**experts, name: ModelEntry.model_validate({"app": name, **changes})}


def test_a_model_goes_on_from_the_tokens_that_it_chose():
    models = playing(
        meta=[[word("It is "), to("chem")]],
        chem=[[token("H", 7, "t"), token("2", 8), GONE], [token("O", 9, "t"), STOP]],
    )
    text, _ = answer(models)
    again = models["chem"].asks[1]
    assert (text, again.written, again.position) == ("It is H2O", "It is ", 3)
    assert again.resumed == Resumed("H2", (7, 8), "t")


def test_after_two_losses_the_tokens_of_all_three_stretches_are_one():
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
        [[word("a"), GONE]],  # an engine that tells no ids
        [[token("a", 1, "old"), GONE], [token("b", 2, "new"), GONE]],  # a rollout came in between
        [[token("a", 1, "t"), word("b"), GONE]],
    ],
)
def test_where_the_tokens_are_not_known_for_sure_the_text_is_read_anew(chem: list[list[Item]]):
    models = playing(chem=[*chem, [word("."), STOP]])
    text, _ = answer(models, DIRECT, retries=3)
    last = models["chem"].asks[-1]
    assert (last.resumed, last.written + ".") == (None, text)


def test_whoever_takes_over_reads_text_not_the_tokens_of_another():
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


def test_a_replica_that_stalls_is_told_of():
    routes = FakeRoutes()
    models = playing(chem=[[word("a"), Pause()], [word("b"), STOP]])
    assert answer(models, DIRECT, routes)[0] == "ab"
    assert routes.stalls == [("chem", DIRECT.request_id)]


@pytest.mark.parametrize("first", [[Pause(3), word("a"), STOP], [word("a"), Pause(3), STOP]])
def test_a_model_may_have_deadlines_of_its_own(first: list[Item]):
    patient, hasty = entry("chem"), entry("chem", first_token_s=2, gap_s=2)
    deadlines = Deadlines(first_token_s=4, gap_s=4)
    for experts, num_tries in ((patient, 1), (hasty, 2)):
        models = playing(chem=[first, [word("a"), STOP]])
        answer(models, DIRECT, experts=experts, deadlines=deadlines)
        assert num_calls(models) == {"chem": num_tries}


def test_what_waits_for_its_message_is_not_taken_for_silence():
    models = playing(chem=[[word("a"), STOP]])
    answer(models, replace(DIRECT, message_gap_s=0.25), experts=entry("chem", gap_s=0.4))
    assert models["chem"].asks[0].message_gap_s == 0.1


def test_an_expert_that_is_away_is_waited_for_where_the_table_says_so():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(meta=[[to("chem")]], chem=[[word("there again"), STOP]])
    assert answer(models, JOB, routes, experts=entry("chem", when_away="wait"))[0] == "there again"
    assert "chem" in models[META].asks[0].allowed


def test_an_expert_that_is_away_is_not_called_otherwise():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(meta=[[word("by meta"), STOP]])
    assert answer(models, JOB, routes)[0] == "by meta"
    assert models[META].asks[0].allowed == ("law",)


def test_an_expert_lost_with_its_last_replica_is_replaced_by_the_meta_at_once():
    """It was waited for as long as a first token may take, though the client could have been served."""
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause()})
    models = playing(meta=[[to("chem")], [word("b"), STOP]], chem=[[word("a"), GONE]])

    def leave(_: object) -> list[Item]:
        routes.ready = ("law", META)
        return [word("a"), GONE]

    routes.ready = ("chem", "law", META)
    models["chem"].script = leave
    text, _ = answer(models, JOB, routes, retries=9)
    assert (text, num_calls(models)["chem"]) == ("ab", 1)


def test_an_expert_lost_with_its_last_replica_is_waited_for_where_the_table_says_so():
    routes = FakeRoutes(ready=("law", META), returns={"chem": Pause(9)})
    models = playing(chem=[[word("b"), STOP]])
    assert answer(models, DIRECT, routes)[0] == "b"


def test_one_that_does_not_come_back_in_time_ends_in_a_clear_error():
    routes = FakeRoutes(ready=(META,), returns={"chem": Pause()})
    with pytest.raises(ModelUnavailable, match="no replica of chem came back in time"):
        answer(playing(), DIRECT, routes)


def test_nobody_waits_for_a_return_beyond_the_total_time():
    routes = FakeRoutes(ready=(META,), returns={"chem": Pause()})
    deadlines = Deadlines(first_token_s=30, total_s=40)
    with pytest.raises(DeadlineExceeded):
        answer(playing(), DIRECT, routes, retries=9, deadlines=deadlines)


def test_a_stalled_model_without_another_replica_fails_when_its_retries_are_used_up():
    with pytest.raises(ModelStalled):
        answer(playing(chem=[[Pause()], [Pause()]]), DIRECT)


class Noted(Admission):
    """Notes who came, and whether it had begun."""

    def __init__(self) -> None:
        super().__init__(lambda _: 32)
        self.entries: list[tuple[str, str, bool]] = []

    @asynccontextmanager
    async def slot(self, model: str, key: str, *, begun: bool, **limits: Any) -> AsyncIterator[None]:
        self.entries.append((model, key, begun))
        async with super().slot(model, key, begun=begun, **limits):
            yield


def test_only_the_beginning_of_an_answer_waits_in_line():
    models = playing(meta=[[word("a"), to("chem")]], chem=[[GONE], [word("b"), STOP]])
    admission, job = Noted(), replace(JOB, key="billing")
    decoder = Decoder(expert_table(), models, FakeRoutes(), admission=admission)

    async def decoded() -> str:
        return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])

    assert in_virtual_time(decoded()) == "ab"
    begun = [("chem", "billing", True)]
    assert admission.entries == [(META, "billing", False), *begun, *begun]
    assert (admission.num_running, admission.num_waiting) == (0, 0)


def test_a_request_with_more_choices_than_there_are_slots_is_served():
    """One choice was refused, and with it all of them: such a request could never be served."""
    admission = Admission(lambda _: 2)
    models = {META: FakeModel(lambda ask: [word("a"), Pause(20), STOP])}
    decoder = Decoder(expert_table(deadlines=Deadlines(gap_s=30)), models, FakeRoutes(), admission=admission)
    job = replace(JOB, let_in=set())

    async def one() -> str:
        return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])

    async def all_of_them() -> list[str]:
        return await asyncio.gather(*(one() for _ in range(8)))

    assert in_virtual_time(all_of_them()) == ["a"] * 8


def test_an_answer_that_is_refused_asks_no_model_again():
    admission = Admission(lambda _: 2)
    decoder = Decoder(expert_table(), models := playing(), FakeRoutes(), admission=admission)

    async def refused() -> None:
        async with AsyncExitStack() as others:
            for _ in range(2):
                await others.enter_async_context(
                    admission.slot(META, "", begun=False, queue_s=1, max_waiting=1)
                )
            with pytest.raises(Overloaded, match="no slot fell free within 5 s"):
                await anext(decoder.decode(JOB))

    in_virtual_time(refused())
    assert num_calls(models) == {}
