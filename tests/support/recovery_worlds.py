"""Worlds for property tests: models that write one text together, and fail or fall asleep meanwhile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, Literal

from hypothesis import strategies as st

from router.availability import ModelState
from router.decoding.decode import Decoder
from router.decoding.delta import TextDelta
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Routing
from router.decoding.transcript import StopRule
from router.errors import ContextLengthExceeded, ModelFailed, ModelStalled, ModelUnavailable, RouterError
from router.model_port import Finish, ModelChunk, ModelRequest
from router.table import META, ModelEntry, RouteTable
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    EXPERTS,
    GENERATION,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    to,
)

FATAL = (ModelFailed, ContextLengthExceeded, "hands over to a forbidden expert")
FAULTS = st.sampled_from(
    [ModelUnavailable, ModelStalled, "ends", "gives up", "hangs", "falls asleep", *FATAL]
)
QUICK, SLOW = Pause(5), Pause(100)  # SLOW is in time for a first start, but not for another one
STARTS = st.sampled_from([QUICK, SLOW, Pause(), ModelFailed("broken")])


@dataclass(frozen=True)
class Call:
    """One call of a model: it ends after `num_chars`, or with a fault after `num_chunks`.

    `joined`: the last chunk has both text and the finish reason. `pick` selects one of the allowed experts.
    """

    num_chars: int = 0
    chunk_size: int = 1
    joined: bool = True
    pick: int = 0
    fault: type[RouterError] | str | None = None
    num_chunks: int = 0


@dataclass
class World:
    """Models that all continue one text from the end of what was written; a token is a byte of UTF-8.

    Those in `starts` are asleep at first. `given_up` are the experts that the meta has replaced.
    """

    generation: GenerationRequest
    text: str
    calls: dict[str, list[Call]]
    changes: dict[str, Any]
    starts: dict[str, Pause | RouterError]
    cold_starts: dict[str, Literal["wait", "meta"]]
    received: str = ""
    picked: str = ""
    chosen: str = ""
    failed: str = ""
    given_up: set[str] = field(default_factory=set)
    faults: list[tuple[str, type[RouterError] | str]] = field(default_factory=list)
    routes: FakeRoutes = field(default_factory=FakeRoutes)

    @property
    def table(self) -> RouteTable:
        experts = {
            name: ModelEntry(app=name, scales_to_zero=True, cold_start=self.cold_starts[name])
            for name in EXPERTS
        }
        return expert_table(experts=experts, **self.changes)

    def play(self, name: str, ask: ModelRequest) -> Iterator[Item]:
        if name == META:  # an expert that was chosen or failed, and did not write, must not be chosen again
            self.given_up = self.given_up | {self.chosen, self.failed} - {"", META}
        self.chosen = self.failed = ""
        self.check(name, ask)
        call = self.calls[name].pop(0) if self.calls[name] else Call()
        items: Iterable[Item] = self.chunks(name, ask, call)
        if call.fault is not None:
            items = chain(list(items)[:-1][: call.num_chunks], self.fail(name, ask, call.fault))
            self.chosen = ""
        for item in items:
            self.received += item.text if isinstance(item, ModelChunk) else ""
            yield item

    def check(self, name: str, ask: ModelRequest) -> None:
        num_tokens = len(self.received.encode())
        assert (ask.written, ask.position) == (self.received, num_tokens)
        assert ask.max_tokens == (
            None if self.generation.max_tokens is None else self.generation.max_tokens - num_tokens
        )
        assert not {*ask.allowed, name} & {*self.generation.routing.exclude}
        assert name in (META, self.picked) or not self.generation.target.routed
        assert name == META or self.routes.state(name) is ModelState.READY
        assert not self.given_up & {*ask.allowed, name}
        waking = {expert for expert in ask.allowed if self.routes.state(expert) is ModelState.WAKING}
        assert not any(self.cold_starts[expert] == "meta" for expert in waking)

    def chunks(self, name: str, ask: ModelRequest, call: Call) -> list[ModelChunk]:
        rest, last = self.text[len(ask.written) :], STOP
        if ask.allowed:
            self.picked = self.chosen = ask.allowed[call.pick % len(ask.allowed)]
            rest, last = rest[: 0 if ask.only_at_start else call.num_chars], to(self.picked)
        elif name != META and self.generation.target.routed and self.changes["after_expert"] == "return":
            rest = rest[: call.num_chars]
        part = within_budget(rest, ask.max_tokens)
        if part != rest:
            last = ModelChunk(finish=Finish.LENGTH)
        texts = [part[at : at + call.chunk_size] for at in range(0, len(part), call.chunk_size)]
        words = [ModelChunk(text, num_tokens=len(text.encode())) for text in texts]
        if call.joined and words:
            return [*words[:-1], replace(last, text=words[-1].text, num_tokens=words[-1].num_tokens)]
        return [ModelChunk(num_prompt_tokens=7), *words, last]

    def fail(self, name: str, ask: ModelRequest, fault: type[RouterError] | str) -> Iterator[Item]:
        self.faults.append((name, fault))
        self.failed = name
        self.picked = self.picked if fault != "hands over to a forbidden expert" else ""
        if isinstance(fault, type):
            yield fault("x")
        if fault == "falls asleep":
            self.routes.ready = set(self.routes.ready) - {name}
            yield ModelUnavailable("x")
        others = [expert for expert in (*EXPERTS, None) if expert not in ask.allowed]
        ends: dict[str, list[Item]] = {
            "hangs": [Pause()],
            "gives up": [ModelChunk(finish=Finish.CANCELLED)],
            "ends": [],
        }
        yield from ends.get(str(fault), [to(others[0])])

    def may_fail(self) -> bool:
        """Whether an error may reach the client: only the meta, or a model addressed by name, causes one."""
        faults = [fault for name, fault in self.faults if name == META or not self.generation.target.routed]
        spent = len(self.received.encode()) == self.generation.max_tokens
        start = (
            QUICK if self.generation.target.routed else self.starts.get(self.generation.target.writer, QUICK)
        )
        return not spent and (
            start != QUICK or len(faults) > self.changes["retries"] or any(fault in FATAL for fault in faults)
        )

    def window_is_full(self) -> bool:
        """Whether the context window of the only model that could continue is full."""
        name, fault = self.faults[-1] if self.faults else ("", "")
        last_resort = name == META or not self.generation.target.routed
        return fault is ContextLengthExceeded and last_resort

    def expected(self) -> tuple[str, set[Finish]]:
        """The text and the possible finish reasons of an undisturbed world."""
        text = within_budget(self.text, self.generation.max_tokens)
        if any(stop in text for stop in self.generation.stop.strings):
            return text.partition(self.generation.stop.strings[0])[0], {Finish.STOP}
        spent = len(text.encode()) == self.generation.max_tokens
        return text, {Finish.LENGTH} if text != self.text else {Finish.STOP, *[Finish.LENGTH] * spent}


def within_budget(text: str, num_bytes: int | None) -> str:
    return text.encode()[:num_bytes].decode(errors="ignore")


def worlds(faults: st.SearchStrategy[Any], starts: st.SearchStrategy[Any]) -> st.SearchStrategy[World]:
    some = st.integers(0, 6)
    call = st.builds(Call, some, st.integers(1, 4), st.booleans(), some, faults, some)
    generation = st.builds(
        GenerationRequest,
        request_id=st.just("r"),
        prompt=st.just(GENERATION.prompt),
        target=st.sampled_from([GENERATION.target, GENERATION.target, GENERATION.target, DIRECT.target]),
        max_tokens=st.none() | st.integers(1, 40),
        stop=st.sampled_from([StopRule(), StopRule(("a🧪a",)), StopRule(("🧪🧪",)), StopRule(("éaa",))]),
        routing=st.sampled_from([Routing(), Routing(exclude=("law",))]),
    )
    changes = {
        "after_expert": st.sampled_from(["finish", "return"]),
        "when": st.sampled_from(["anywhere", "anywhere", "start"]),
        "max_handoffs": st.integers(0, 3),
        "retries": st.integers(0, 2),
    }
    calls = st.fixed_dictionaries({name: st.lists(call, max_size=4) for name in (META, *EXPERTS)})
    return st.builds(
        World,
        generation,
        st.text("aé🧪", max_size=16),
        calls,
        st.fixed_dictionaries(changes),
        st.dictionaries(st.sampled_from(EXPERTS), starts),
        st.fixed_dictionaries({name: st.sampled_from(["wait", "meta"]) for name in EXPERTS}),
    )


def live(world: World, leave_after: int | None = None) -> tuple[str, Done | None]:
    """The text that the client got, and the end, unless the client left or the answer failed."""
    models = {name: FakeModel(partial(world.play, name)) for name in (META, *EXPERTS)}
    shown: list[str] = []
    starts = dict.fromkeys(EXPERTS, QUICK) | world.starts
    world.routes = FakeRoutes({*EXPERTS} - {*world.starts}, starts)

    async def read() -> Done | None:
        decoder = Decoder(world.table, models, world.routes)
        try:
            async with aclosing(decoder.decode(world.generation)) as events:
                async for event in events:
                    if isinstance(event, Done):
                        return event
                    assert isinstance(event, TextDelta)
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
