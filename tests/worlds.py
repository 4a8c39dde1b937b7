"""Worlds for property tests: models that write one text between them, and fail and fall asleep as they do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from hypothesis import strategies as st

from router.decode import Decoder
from router.errors import ContextLengthExceeded, ModelFailed, ModelStalled, ModelUnavailable, RouterError
from router.job import Done, Job
from router.model import Ask, Finish, Piece
from router.policy import Routing
from router.routes import State
from router.table import META, ModelEntry, RouteTable
from tests.fake_routes import FakeRoutes
from tests.fakes import (
    DIRECT,
    EXPERTS,
    JOB,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    to,
)

FATAL = (ModelFailed, ContextLengthExceeded, "hands over unasked")
FAULTS = st.sampled_from(
    [ModelUnavailable, ModelStalled, "ends", "gives up", "hangs", "falls asleep", *FATAL]
)
QUICK, SLOW = Pause(5), Pause(100)  # SLOW is in time to wake, but not to come back during an answer
STARTS = st.sampled_from([QUICK, SLOW, Pause(), ModelFailed("broken")])


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
    """Models that all continue one text from wherever the answer stands; a token is a byte of UTF-8.

    Those in `starts` sleep at first. `given_up` are the experts the meta had to take over from.
    """

    job: Job
    text: str
    turns: dict[str, list[Turn]]
    changes: dict[str, Any]
    starts: dict[str, Pause | RouterError]
    cold_starts: dict[str, Literal["wait", "meta"]]
    received: str = ""
    picked: str = ""
    called: str = ""
    failed: str = ""
    given_up: set[str] = field(default_factory=set)
    faults: list[tuple[str, type[RouterError] | str]] = field(default_factory=list)
    routes: FakeRoutes = field(default_factory=FakeRoutes)

    @property
    def table(self) -> RouteTable:
        experts = {
            name: ModelEntry(app=name, wakes=True, cold_start=self.cold_starts[name]) for name in EXPERTS
        }
        return expert_table(experts=experts, **self.changes)

    def play(self, name: str, ask: Ask) -> Iterator[Item]:
        if name == META:  # whoever was called, or failed, without writing on is not to be called again
            self.given_up = self.given_up | {self.called, self.failed} - {"", META}
        self.called = self.failed = ""
        self.check(name, ask)
        turn = self.turns[name].pop(0) if self.turns[name] else Turn()
        pieces: Iterable[Item] = self.pieces(name, ask, turn)
        if turn.fault is not None:
            pieces = chain(list(pieces)[:-1][: turn.num_pieces], self.fail(name, ask, turn.fault))
            self.called = ""
        for item in pieces:
            self.received += item.text if isinstance(item, Piece) else ""
            yield item

    def check(self, name: str, ask: Ask) -> None:
        num_tokens = len(self.received.encode())
        assert (ask.written, ask.position) == (self.received, num_tokens)
        assert ask.max_tokens == (None if self.job.max_tokens is None else self.job.max_tokens - num_tokens)
        assert not {*ask.allowed, name} & {*self.job.routing.exclude}
        assert name in (META, self.picked) or not self.job.target.routed
        assert name == META or self.routes.state(name) is State.READY
        assert not self.given_up & {*ask.allowed, name}
        waking = {expert for expert in ask.allowed if self.routes.state(expert) is State.WAKING}
        assert not any(self.cold_starts[expert] == "meta" for expert in waking)

    def pieces(self, name: str, ask: Ask, turn: Turn) -> list[Piece]:
        rest, last = self.text[len(ask.written) :], STOP
        if ask.allowed:
            self.picked = self.called = ask.allowed[turn.pick % len(ask.allowed)]
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
        self.failed = name
        self.picked = self.picked if fault != "hands over unasked" else ""
        if isinstance(fault, type):
            yield fault("x")
        if fault == "falls asleep":
            self.routes.ready = set(self.routes.ready) - {name}
            yield ModelUnavailable("x")
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
        start = QUICK if self.job.target.routed else self.starts.get(self.job.target.writer, QUICK)
        return not spent and (
            start != QUICK or len(faults) > self.changes["retries"] or any(fault in FATAL for fault in faults)
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


def worlds(faults: st.SearchStrategy[Any], starts: st.SearchStrategy[Any]) -> st.SearchStrategy[World]:
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
    return st.builds(
        World,
        job,
        st.text("aé🧪", max_size=16),
        calls,
        st.fixed_dictionaries(changes),
        st.dictionaries(st.sampled_from(EXPERTS), starts),
        st.fixed_dictionaries({name: st.sampled_from(["wait", "meta"]) for name in EXPERTS}),
    )


def live(world: World, leave_after: int | None = None) -> tuple[str, Done | None]:
    """The text the client got, and the end unless it left or the answer failed."""
    models = {name: FakeModel(partial(world.play, name)) for name in (META, *EXPERTS)}
    shown: list[str] = []
    starts = dict.fromkeys(EXPERTS, QUICK) | world.starts
    world.routes = FakeRoutes({*EXPERTS} - {*world.starts}, starts)

    async def read() -> Done | None:
        decoder = Decoder(world.table, models, world.routes)
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
