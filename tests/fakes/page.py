"""A router with its page, in front of fake models that wait wherever a test wants to look."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace

from deployments.http.cluster_endpoint import ClusterEndpoint
from deployments.http.page import Page
from deployments.replicas.app_reports import AppReport, AppReports
from router.api.keys import digest_of
from router.api_key import ApiKey
from router.decisions.last_hour import LastHour
from router.decisions.metrics import Metric
from router.decoding.timing import Timing
from router.dialects.app import build_app
from router.dialects.openapi import DocumentedApp
from router.load_report import ModelLoad, ReplicaLoad
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import ReasoningPart, TextPart, ToolCallPart
from router.routing_report import Candidates, RoutingReport, ShadowWin
from tests.fakes.models import FakeGateway, FakeModel, Item, Script, served, to, word

# Markdown, and what must stay text.
ROMAN_TEXT = (
    "I",
    "X",
    ", **nine** in roman numerals:\n\n- `I` stands before `X`\n- so it is *taken away*\n\n",
    "| arabic | roman |\n|---|---|\n| 9 | IX |\n| 40 | XL |\n\n",
    "<img src=x onerror=alert(1)> [a link](javascript:alert(1)) ![a picture](https://elsewhere.example/x.png)",
)
KEY = "key-of-alice-0123456789"
PROBABILITIES = {"roman": 0.92, "morse": 0.03}
TOOL = '{"tools": [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object"}}}]}'


@dataclass
class GatedModel(FakeModel):
    """Waits at its gate before its last chunk. The gate is open until a test closes it."""

    gate: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.gate.set()

    async def stream(self, ask: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        async with aclosing(super().stream(ask)) as chunks:
            async for chunk in chunks:
                if chunk.finish is not None:
                    await asyncio.to_thread(self.gate.wait)
                yield chunk


@dataclass
class FakeReports:
    reports: Mapping[str, AppReport] = field(default_factory=dict)

    async def by_app(self) -> Mapping[str, AppReport]:
        return self.reports


class LastHourMeter:
    """A `Meter`, and the `Metrics`, that keep the last hour."""

    def __init__(self) -> None:
        self.last_hour = LastHour()

    def ended(self, timing: Timing) -> None:
        self.last_hour.add(timing)

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self.last_hour.count(metric, value, tags)


@dataclass
class PageWorld:
    """The meta hands questions over to roman, unless they say "general"; morse is asleep and cannot start."""

    gateway: FakeGateway
    meta: GatedModel
    roman: GatedModel
    reports: FakeReports
    url: str = ""

    def require_key(self) -> str:
        """From now on, requests need the key that this returns."""
        key = ApiKey(name="alice", sha256=digest_of(KEY))
        self.gateway.table = self.gateway.table.model_copy(update={"keys": (key,)})
        return KEY


def app_with_page(gateway: FakeGateway, reports: AppReports | None = None) -> DocumentedApp:
    """As `deployments/router.py` builds it."""
    app = build_app(gateway)
    meter = gateway.meter
    last_hour = meter.last_hour if isinstance(meter, LastHourMeter) else LastHour()
    ClusterEndpoint(gateway, reports or FakeReports(), last_hour).add_to(app)
    app.add_middleware(Page, table_of=lambda: gateway.table)
    return app


@contextmanager
def page_world() -> Iterator[PageWorld]:
    """The world behind a real HTTP server; its gates open at the end, so that nothing waits forever."""
    models = {name: GatedModel(script) for name, script in SCRIPTS.items()}
    meter = LastHourMeter()
    gateway = FakeGateway(
        models, ready={"roman"}, meter=meter, metrics=meter, loads=dict.fromkeys(models, LOAD)
    )
    reports = FakeReports(
        {
            "meta": AppReport(1, 1, ""),
            "roman": AppReport(1, 2, "waits: no node has 1 GPU free"),
            "morse": AppReport(0, 0, ""),
        }
    )
    world = PageWorld(gateway, models["meta"], models["roman"], reports)
    with served(app_with_page(gateway, reports)) as world.url:
        try:
            yield world
        finally:
            for model in models.values():
                model.gate.set()


def _meta(ask: ModelRequest) -> list[Item]:
    if ask.probe:
        allowed = {name: share for name, share in PROBABILITIES.items() if name in ask.allowed}
        winner = "roman" if "roman" in allowed else None
        return [ModelChunk(finish=Finish.EXPERT, expert=winner, distribution=allowed, num_prompt_tokens=9)]
    if "roman" in ask.allowed and "general" not in _question(ask):
        return [ModelChunk(num_prompt_tokens=9), word("It is "), _to_roman(ask)]
    words = [word("I answer "), word("this myself.")]
    wins = tuple(ShadowWin(name, None, 0.4, 0) for name in ask.shadows if name in _question(ask))
    return [
        ModelChunk(num_prompt_tokens=9, routing=RoutingReport(shadow_wins=wins)),
        *words,
        ModelChunk(finish=Finish.STOP),
    ]


def _to_roman(ask: ModelRequest) -> ModelChunk:
    """With what the meta chose from, unless the question says "untold": an engine may not report it."""
    chunk = to("roman", PROBABILITIES["roman"])
    if "untold" in _question(ask):
        return chunk
    experts = tuple((name, math.log(share)) for name, share in PROBABILITIES.items())
    return replace(chunk, routing=RoutingReport(Candidates(math.log(0.04), experts)))


def _roman(ask: ModelRequest) -> list[Item]:
    options = ask.prompt.options
    if options and options.tools and "noon" not in _question(ask):
        return [ModelChunk(num_prompt_tokens=9), *_tool_call(), ModelChunk(finish=Finish.STOP)]
    words = [word(text) for text in ROMAN_TEXT]
    return [ModelChunk(num_prompt_tokens=9), *words, ModelChunk(finish=Finish.STOP)]


def _tool_call() -> list[ModelChunk]:
    parts = (ReasoningPart("I need the time."), TextPart(""), ToolCallPart(0, "clock", '{"zone": "UTC"}'))
    return [ModelChunk("raw", parts=(part,), num_tokens=1) for part in parts]


def _morse(ask: ModelRequest) -> list[Item]:
    return [ModelChunk(num_prompt_tokens=9), word("----."), ModelChunk(finish=Finish.STOP)]


def _question(ask: ModelRequest) -> str:
    assert ask.prompt.messages
    return ask.prompt.messages[-1].content


SCRIPTS: Mapping[str, Script] = {"meta": _meta, "roman": _roman, "morse": _morse}
LOAD = ModelLoad(1, 0, 420, (ReplicaLoad("r1", 10.0, 1, 0, 420, 0.25),))
