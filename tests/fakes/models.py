"""Fakes of the router's ports that keep the whole contract, and virtual time."""

from __future__ import annotations

import asyncio
import selectors
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeVar

import uvicorn
from fastapi import FastAPI

from router.admission.controller import Admission
from router.admission.quarantine import Quarantine
from router.api.key_limits import KeyLimits
from router.availability import ModelState
from router.decisions.metrics import Metrics, NoMetrics
from router.decisions.recent_answers import MAX_ANSWERS
from router.decisions.recorder import DecisionLog, DecisionRecorder, NoLog
from router.decoding.generation import GenerationRequest
from router.decoding.policy import Target
from router.decoding.timing import Meter, NoMeter
from router.errors import ModelBroken, ModelUnavailable, RouterError
from router.load_report import ModelLoad
from router.model_port import Finish, ModelChunk, ModelRequest, Models
from router.prompt import Prompt
from router.table import META, ModelEntry, RouteTable
from router.tasks import Embed, Tokenize, TokenizedPrompt
from router.tracing import NoTracer, Tracer

T = TypeVar("T")
EXPERTS = ("chem", "law", "weather")
GENERATION = GenerationRequest("r", Prompt(text="q"), Target("meta", routed=True))
DIRECT = replace(GENERATION, target=Target("chem", routed=False))
STOP = ModelChunk(finish=Finish.STOP)
GONE = ModelUnavailable("gone")
VECTOR = (0.5, -0.25)  # of every embedding


@dataclass(frozen=True)
class Pause:
    """The replica is alive but produces nothing for `for_s` seconds; None is forever."""

    for_s: float | None = None


Item = ModelChunk | RouterError | Pause
Script = Callable[[ModelRequest], Iterable[Item]]


@dataclass
class FakeModel:
    """Streams what its script returns for a request; an error in the script is raised in its place.
    Tasks have a script of their own."""

    script: Script
    asks: list[ModelRequest] = field(default_factory=list)
    num_open: int = 0
    all_closed: threading.Event = field(default_factory=threading.Event)
    tasks: Script = field(default=lambda ask: performs(ask))

    async def stream(self, ask: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        self.asks.append(ask)
        self.num_open += 1
        self.all_closed.clear()
        try:
            for item in (self.tasks if ask.task else self.script)(ask):
                if isinstance(item, RouterError):
                    raise item
                if isinstance(item, Pause):
                    await pause(item)
                else:
                    yield item
        finally:
            self.num_open -= 1
            if not self.num_open:
                self.all_closed.set()


def performs(ask: ModelRequest) -> list[Item]:
    """The result of a task: two tokens, the text of tokens, or a vector for each input."""
    if isinstance(ask.task, Embed):
        vectors = (struct.pack("<2f", *VECTOR),) * len(ask.prompt.inputs or ())
        return [ModelChunk(vectors=vectors, num_prompt_tokens=7, finish=Finish.STOP)]
    if not isinstance(ask.task, Tokenize):
        return [ModelChunk(f"text of {ask.prompt.ids}", finish=Finish.STOP)]
    texts = ("He", "llo") if ask.task.with_texts else None
    return [ModelChunk(tokenized=TokenizedPrompt((5, 6), texts, 512), finish=Finish.STOP)]


def writes(*texts: str, finish: Finish = Finish.STOP) -> Script:
    """Write `texts`, one token each."""

    def script(ask: ModelRequest) -> list[ModelChunk | RouterError]:
        words = [ModelChunk(text, num_tokens=1) for text in texts]
        return [ModelChunk(num_prompt_tokens=3), *words, ModelChunk(finish=finish)]

    return script


def hands_over(expert: str, probability: float = 0.9, *before: str) -> Script:
    """Write `before`, then hand over if the expert is allowed, or else write that it does not know."""

    def script(ask: ModelRequest) -> list[ModelChunk | RouterError]:
        words: list[ModelChunk | RouterError] = [
            ModelChunk(text, num_tokens=1, num_prompt_tokens=3) for text in before
        ]
        if expert in ask.allowed:
            return [*words, ModelChunk(finish=Finish.EXPERT, expert=expert, probability=probability)]
        return [*words, ModelChunk("I do not know.", num_tokens=4), ModelChunk(finish=Finish.STOP)]

    return script


def models(**scripts: Script) -> Mapping[str, FakeModel]:
    return {name.replace("_", "-"): FakeModel(script) for name, script in scripts.items()}


def within_budget(script: Script) -> Script:
    """Stop the script where an engine would, once `max_tokens` are written."""

    def limited(ask: ModelRequest) -> Iterator[ModelChunk | RouterError | Pause]:
        num_left = ask.max_tokens
        for item in script(ask):
            yield item
            if isinstance(item, ModelChunk) and num_left is not None:
                num_left -= item.num_tokens
                if num_left <= 0 and item.finish is None:
                    yield ModelChunk(finish=Finish.LENGTH)
                    return

    return lambda ask: list(limited(ask))


def distributes(**probabilities: float) -> Script:
    """Answer a probe: an allowed expert more probable than one half wins."""

    def script(ask: ModelRequest) -> list[ModelChunk]:
        assert ask.probe
        allowed = {name: p for name, p in probabilities.items() if name in ask.allowed}
        winner = next((name for name, p in allowed.items() if p > 0.5), None)
        finish = Finish.EXPERT if winner else Finish.STOP
        return [ModelChunk(num_prompt_tokens=3, finish=finish, expert=winner, distribution=allowed)]

    return script


@dataclass
class FakeGateway:
    """A cluster of fake models named `meta`, `roman` and `morse`; a test may change every part."""

    models: Models
    ready: Collection[str] = ("roman", "morse")
    meta_ready: bool = True
    failed: Collection[str] = ()
    max_body_bytes: int = 10_000
    loads: Mapping[str, ModelLoad] = field(default_factory=dict)
    ejected: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    slots: int = 64
    vocabularies: Mapping[str, str] = field(default_factory=dict)
    stalls: list[tuple[str, str]] = field(default_factory=list)
    quarantine: Quarantine = field(default_factory=Quarantine)
    meter: Meter = field(default_factory=NoMeter)
    metrics: Metrics = field(default_factory=NoMetrics)
    decision_log: DecisionLog = field(default_factory=NoLog)
    max_answers: int = MAX_ANSWERS
    tracer: Tracer = field(default_factory=NoTracer)
    limits: KeyLimits = field(default_factory=KeyLimits)
    table: RouteTable = RouteTable(
        table_version=7,
        name="generalist",
        meta=ModelEntry(app="meta"),
        experts={"roman": ModelEntry(app="roman"), "morse": ModelEntry(app="morse", scales_to_zero=True)},
        retries=0,
    )

    def state(self, name: str) -> ModelState:
        if name in self.failed:
            return ModelState.FAILED
        if name == META:
            return ModelState.READY if self.meta_ready else ModelState.MASKED
        if name in self.ready:
            return ModelState.READY
        return ModelState.ASLEEP if self.table.entry(name).scales_to_zero else ModelState.MASKED

    def wake(self, name: str) -> None:
        self.ready = {*self.ready, name}

    async def wait_until_ready(self, name: str) -> None:
        if name in self.failed:
            raise ModelBroken(f"{name} has failed")
        self.wake(name)

    def stalled(self, name: str, request_id: str) -> None:
        self.stalls.append((name, request_id))

    def num_answered(self, name: str) -> int:
        return 0

    async def answers(self, name: str) -> bool:
        return True

    def vocabulary(self, name: str) -> str | None:
        return self.vocabularies.get(name)

    def num_slots(self, name: str) -> int:
        return self.slots

    def max_slots(self, name: str) -> int:
        return self.slots

    @cached_property
    def admission(self) -> Admission:
        return Admission(self.num_slots)

    @cached_property
    def recorder(self) -> DecisionRecorder:
        spend = self.limits.leases.spend
        return DecisionRecorder(self.metrics, self.decision_log, lambda: self.table, self.max_answers, spend)

    async def load(self) -> dict[str, ModelLoad | None]:
        return {name: self.loads.get(name) for name in (META, *self.table.experts)}


@contextmanager
def served(app: FastAPI, http: Any = "auto") -> Iterator[str]:
    """Serve the app by a real uvicorn in a thread; yields its address. `http` is uvicorn's setting."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, http=http, log_config=None, ws="none", lifespan="off"))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        # The socket listens already: requests wait in its backlog until the server runs.
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def word(text: str) -> ModelChunk:
    return ModelChunk(text, num_tokens=1)


def to(expert: str | None, probability: float = 0.9) -> ModelChunk:
    return ModelChunk(finish=Finish.EXPERT, expert=expert, probability=probability)


def turns(*scripts: Iterable[Item]) -> Script:
    """The next script at every call; a call too many is an error."""
    remaining = list(scripts)
    return lambda ask: remaining.pop(0)


def playing(**calls: Iterable[Iterable[Item]]) -> Mapping[str, FakeModel]:
    """The meta and every expert of `expert_table`, each with its scripts call by call."""
    return {name: FakeModel(turns(*calls.get(name, []))) for name in ("meta", *EXPERTS)}


def num_calls(models: Mapping[str, FakeModel]) -> dict[str, int]:
    return {name: len(model.asks) for name, model in models.items() if model.asks}


def expert_table(**changes: Any) -> RouteTable:
    experts = {name: ModelEntry(app=name) for name in EXPERTS}
    fields = {
        "table_version": 1,
        "name": "g",
        "meta": ModelEntry(app="meta"),
        "experts": experts,
        "retries": 1,
    }
    return RouteTable(**{**fields, **changes})


def in_virtual_time(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` on a loop whose clock jumps to the next timer, so that deadlines of minutes cost nothing."""
    with asyncio.Runner(loop_factory=_VirtualTimeLoop) as runner:
        return runner.run(main)


class _VirtualTimeLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self._clock = _JumpingSelector()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now_s


class _JumpingSelector(selectors.SelectSelector):
    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits and no timer is set: this would hang forever"
        self.now_s += timeout
        return super().select(0)


async def pause(length: Pause) -> None:
    """Wait for the length of a pause, on the loop's clock."""
    over = asyncio.Event()
    if length.for_s is not None:
        asyncio.get_running_loop().call_later(length.for_s, over.set)
    await over.wait()
