"""One answer from the meta through its experts to the end, undisturbed and disturbed."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from router.decode import Decoder
from router.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelFailed,
    ModelStalled,
    ModelUnavailable,
    RouterError,
)
from router.job import Delta, Done, Job
from router.model import Ask, Finish, Piece
from router.policy import Routing
from router.table import META
from tests.fakes import (
    DIRECT,
    EXPERTS,
    GONE,
    JOB,
    STOP,
    FakeModel,
    Item,
    Pause,
    answer,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)


def test_an_expert_that_was_handed_the_pen_finishes_the_answer():
    models = playing(meta=[[word("It is "), to("chem", 0.7)]], chem=[[word("H2"), word("O."), STOP]])
    text, done = answer(models)
    assert (text, done.finish, done.num_completion_tokens) == ("It is H2O.", Finish.STOP, 3)
    assert [(s.model, s.text, s.num_tokens, s.probability) for s in done.spans] == [
        ("meta", "It is ", 1, None),
        ("chem", "H2O.", 2, 0.7),
    ]
    ask = models["chem"].asks[0]
    assert (ask.written, ask.position, ask.allowed) == ("It is ", 1, ())


def test_an_expert_returns_the_pen_until_the_handoffs_are_used_up():
    meta = [[word("a"), to("chem")], [word("c"), to("law")], [word("e"), STOP]]
    models = playing(meta=meta, chem=[[word("b"), STOP]], law=[[word("d"), STOP]])
    text, done = answer(models, after_expert="return", max_handoffs=2)
    assert (text, done.finish) == ("abcde", Finish.STOP)
    assert [(ask.written, ask.allowed) for ask in models[META].asks] == [
        ("", EXPERTS),
        ("ab", EXPERTS),
        ("abcd", ()),
    ]


def test_an_expert_at_the_end_of_its_window_does_not_return_the_pen():
    models = playing(meta=[[to("chem")]], chem=[[word("b"), Piece(finish=Finish.LENGTH)]])
    assert answer(models, after_expert="return")[1].finish is Finish.LENGTH


def test_the_token_budget_spans_the_handover():
    models = playing(
        meta=[[word("a"), word("b"), to("chem")]], chem=[[word("c"), Piece(finish=Finish.LENGTH)]]
    )
    text, done = answer(models, replace(JOB, max_tokens=3))
    assert (text, done.finish, models["chem"].asks[0].max_tokens) == ("abc", Finish.LENGTH, 1)


def test_a_budget_spent_exactly_at_the_handover_asks_nobody_else():
    models = playing(meta=[[word("a"), word("b"), to("chem")]])
    text, done = answer(models, replace(JOB, max_tokens=2))
    assert (text, done.finish, num_calls(models)) == ("ab", Finish.LENGTH, {META: 1})


@pytest.mark.parametrize(
    "fault", [GONE, ModelFailed("x"), DeadlineExceeded("x"), Piece(finish=Finish.CANCELLED)]
)
@pytest.mark.parametrize("job", [JOB, DIRECT])
def test_a_fault_after_the_last_token_takes_nothing_away(fault: Item, job: Job):
    models = playing(**{job.target.writer: [[word("a"), word("b"), fault]]})
    text, done = answer(models, replace(job, max_tokens=2), retries=0)
    assert (text, done.finish, num_calls(models)) == ("ab", Finish.LENGTH, {job.target.writer: 1})


def test_a_stop_string_begun_by_the_meta_and_ended_by_the_expert_stops_the_answer():
    models = playing(meta=[[word("a🧪"), to("chem")]], chem=[[word("🧪b"), GONE]])
    text, done = answer(models, replace(JOB, stop=("🧪🧪",)))
    assert (text, done.finish, done.num_completion_tokens) == ("a", Finish.STOP, 2)


def test_the_beginning_of_a_stop_string_at_the_end_of_the_answer_is_shown():
    models = playing(meta=[[word("a<"), STOP]])
    assert answer(models, replace(JOB, stop=("<end>",)))[0] == "a<"


def test_with_when_start_the_meta_decides_before_the_first_word_only():
    models = playing(meta=[[to("chem")], [word("b"), STOP]], chem=[[word("a"), STOP]])
    answer(models, when="start", after_expert="return")
    assert [(ask.allowed, ask.only_at_start) for ask in models[META].asks] == [(EXPERTS, True), ((), True)]


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ([Pause(29), word("a"), Pause(9), STOP], None),
        ([Pause(31), word("a"), STOP], ModelStalled),
        ([Piece(num_prompt_tokens=3), Pause(29), word("a"), STOP], None),
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
def test_a_client_that_leaves_frees_the_writer(how: str):
    models = playing(meta=[[word("a"), to("chem")]], chem=[[word("b"), Pause()]])

    async def leave() -> None:
        reached = asyncio.Event()

        async def read() -> None:
            events = Decoder(expert_table(), models, EXPERTS).decode(JOB)
            try:
                assert [await anext(events), await anext(events)] == [Delta("a", META), Delta("b", "chem")]
                assert models["chem"].num_open == 1
                reached.set()
                if how == "is cancelled":
                    await anext(events)
            finally:
                await events.aclose()
                assert not any(model.num_open for model in models.values()), "closed, not left to the loop"

        reader = asyncio.create_task(read())
        await reached.wait()
        if how == "is cancelled":
            reader.cancel()
        await asyncio.wait([reader])
        assert reader.cancelled() == (how == "is cancelled")
        assert reader.cancelled() or reader.exception() is None

    in_virtual_time(leave())


@pytest.mark.parametrize("fault", [GONE, Piece(finish=Finish.CANCELLED)])
def test_the_distribution_is_asked_for_again_when_a_replica_goes(fault: Item):
    answer = Piece(distribution={"chem": 0.8}, finish=Finish.STOP)
    models = playing(meta=[[fault], [Piece(num_prompt_tokens=3), answer]])
    assert in_virtual_time(Decoder(expert_table(), models, EXPERTS).distribution(JOB)) == answer
    assert all(ask.probe and ask.allowed == EXPERTS for ask in models[META].asks)


FATAL = (ModelFailed, ContextLengthExceeded, "hands over unasked")
FAULTS = st.sampled_from([ModelUnavailable, ModelStalled, "ends", "gives up", "hangs", *FATAL])


@dataclass(frozen=True)
class Turn:
    """One call: the pen is put down after `num_chars`; a fault comes after `num_pieces` instead."""

    num_chars: int = 0
    piece_size: int = 1
    joined: bool = True
    pick: int = 0
    fault: type[RouterError] | str | None = None
    num_pieces: int = 0


@dataclass
class World:
    """Models that all continue one text from wherever the answer stands; a token is a byte of UTF-8."""

    job: Job
    text: str
    turns: dict[str, list[Turn]]
    changes: dict[str, Any]
    received: str = ""
    picked: str = ""
    faults: list[tuple[str, type[RouterError] | str]] = field(default_factory=list)

    def play(self, name: str, ask: Ask) -> Iterator[Item]:
        self.check(name, ask)
        turn = self.turns[name].pop(0) if self.turns[name] else Turn()
        pieces: Iterable[Item] = self.pieces(name, ask, turn)
        if turn.fault is not None:
            pieces = chain(list(pieces)[:-1][: turn.num_pieces], self.fail(name, ask, turn.fault))
        for item in pieces:
            self.received += item.text if isinstance(item, Piece) else ""
            yield item

    def check(self, name: str, ask: Ask) -> None:
        num_tokens = len(self.received.encode())
        assert (ask.written, ask.position) == (self.received, num_tokens)
        assert ask.max_tokens == (None if self.job.max_tokens is None else self.job.max_tokens - num_tokens)
        assert not {*ask.allowed, name} & {*self.job.routing.exclude}
        assert name in (META, self.picked) or not self.job.target.routed

    def pieces(self, name: str, ask: Ask, turn: Turn) -> list[Piece]:
        rest, last = self.text[len(ask.written) :], STOP
        if ask.allowed:
            self.picked = ask.allowed[turn.pick % len(ask.allowed)]
            rest, last = rest[: 0 if ask.only_at_start else turn.num_chars], to(self.picked)
        elif name != META and self.job.target.routed and self.changes["after_expert"] == "return":
            rest = rest[: turn.num_chars]
        part = afford(rest, ask.max_tokens)
        if part != rest:
            last = Piece(finish=Finish.LENGTH)
        texts = [part[at : at + turn.piece_size] for at in range(0, len(part), turn.piece_size)]
        words = [Piece(text, num_tokens=len(text.encode())) for text in texts]
        if turn.joined and words:
            return [*words[:-1], replace(last, text=words[-1].text, num_tokens=words[-1].num_tokens)]
        return [Piece(num_prompt_tokens=7), *words, last]

    def fail(self, name: str, ask: Ask, fault: type[RouterError] | str) -> Iterator[Item]:
        self.faults.append((name, fault))
        self.picked = self.picked if fault != "hands over unasked" else ""
        if isinstance(fault, type):
            yield fault("x")
        others = [expert for expert in (*EXPERTS, None) if expert not in ask.allowed]
        ends: dict[str, list[Item]] = {
            "hangs": [Pause()],
            "gives up": [Piece(finish=Finish.CANCELLED)],
            "ends": [],
        }
        yield from ends.get(str(fault), [to(others[0])])

    def may_fail(self) -> bool:
        """Only the meta, or a model addressed by name, can end an answer in an error."""
        faults = [fault for name, fault in self.faults if name == META or not self.job.target.routed]
        spent = len(self.received.encode()) == self.job.max_tokens
        return not spent and (
            len(faults) > self.changes["retries"] or any(fault in FATAL for fault in faults)
        )

    def window_is_full(self) -> bool:
        """Whether the answer stands where the last model that could write it cannot go on."""
        name, fault = self.faults[-1] if self.faults else ("", "")
        last_resort = name == META or not self.job.target.routed
        return fault is ContextLengthExceeded and last_resort

    def expected(self) -> tuple[str, set[Finish]]:
        """What an undisturbed world would have written; who spends the last token may or may not say stop."""
        text = afford(self.text, self.job.max_tokens)
        if any(stop in text for stop in self.job.stop):
            return text.partition(self.job.stop[0])[0], {Finish.STOP}
        spent = len(text.encode()) == self.job.max_tokens
        return text, {Finish.LENGTH} if text != self.text else {Finish.STOP, *[Finish.LENGTH] * spent}


def afford(text: str, num_bytes: int | None) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


def worlds(faults: st.SearchStrategy[Any]) -> st.SearchStrategy[World]:
    some = st.integers(0, 6)
    turn = st.builds(Turn, some, st.integers(1, 4), st.booleans(), some, faults, some)
    job = st.builds(
        Job,
        request_id=st.just("r"),
        prompt=st.just(JOB.prompt),
        target=st.sampled_from([JOB.target, JOB.target, JOB.target, DIRECT.target]),
        max_tokens=st.none() | st.integers(1, 40),
        stop=st.sampled_from([(), ("a🧪a",), ("🧪🧪",), ("éaa",)]),
        routing=st.sampled_from([Routing(), Routing(exclude=("law",))]),
    )
    changes = {
        "after_expert": st.sampled_from(["finish", "return"]),
        "when": st.sampled_from(["anywhere", "anywhere", "start"]),
        "max_handoffs": st.integers(0, 3),
        "retries": st.integers(0, 2),
    }
    calls = st.fixed_dictionaries({name: st.lists(turn, max_size=4) for name in (META, *EXPERTS)})
    return st.builds(World, job, st.text("aé🧪", max_size=16), calls, st.fixed_dictionaries(changes))


def live(world: World, leave_after: int | None = None) -> tuple[str, Done | None]:
    """The text the client got, and the end unless it left or the answer failed."""
    models = {name: FakeModel(partial(world.play, name)) for name in (META, *EXPERTS)}
    shown: list[str] = []

    async def read() -> Done | None:
        decoder = Decoder(expert_table(**world.changes), models, EXPERTS)
        try:
            async with aclosing(decoder.decode(world.job)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        return event
                    shown.append(event.text)
                    if len(shown) == leave_after:
                        return None
            raise AssertionError("the answer ended without Done")
        finally:
            assert not any(model.num_open for model in models.values())

    done = None
    try:
        done = in_virtual_time(read())
    except RouterError:
        assert world.may_fail()
    retries, num_experts = world.changes["retries"], len(EXPERTS)
    num_visits = 1 + 2 * (world.changes["max_handoffs"] + num_experts)
    assert sum(num_calls(models).values()) <= num_visits + retries * (num_experts + 1)
    return "".join(shown), done


@settings(deadline=None, max_examples=200)
@given(worlds(st.none() | FAULTS), st.sampled_from([None, None, None, 1, 2, 5]))
def test_whatever_happens_nothing_is_lost_and_nothing_doubled(world: World, leave_after: int | None):
    text, done = live(world, leave_after)
    expected, finishes = world.expected()
    assert expected.startswith(text)
    if done is None:
        return
    if world.window_is_full():
        assert (done.finish, text) == (Finish.LENGTH, "".join(span.text for span in done.spans))
        return
    assert text == expected == "".join(span.text for span in done.spans)
    assert done.finish in finishes
    assert done.num_completion_tokens == len(world.received.encode())
    assert done.num_completion_tokens == sum(u.num_completion_tokens for u in done.usage_by_model.values())


@settings(deadline=None)
@given(worlds(st.none()), st.integers(1, 4), st.booleans())
def test_the_answer_does_not_depend_on_how_the_models_cut_it(world: World, piece_size: int, joined: bool):
    cut = {
        name: [replace(t, piece_size=piece_size, joined=joined) for t in ts]
        for name, ts in world.turns.items()
    }
    (text, done), (text_cut, done_cut) = live(replace(world, turns=cut)), live(world)
    assert done is not None
    assert done_cut is not None
    assert (text_cut, done_cut.finish) == (text, done.finish)
    assert [(s.model, s.text) for s in done_cut.spans] == [(s.model, s.text) for s in done.spans]
