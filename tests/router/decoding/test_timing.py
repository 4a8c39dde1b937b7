"""The phases of an answer's time: none is missing, and together they are the whole."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import pytest

from router.decoding.decode import Decoder
from router.decoding.delta import Delta, TextDelta
from router.decoding.generation import Done
from router.decoding.timing import CallTiming, Timing
from router.errors import ModelFailed, RouterError
from router.model_port import ModelChunk, ModelRequest
from router.table import ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    GENERATION,
    GONE,
    STOP,
    FakeModel,
    Item,
    Pause,
    expert_table,
    in_virtual_time,
    playing,
    to,
    word,
)
from tests.support.answering import answer


def first(text: str, *, queue_s: float = 0.0, prefill_s: float = 0.0) -> ModelChunk:
    return replace(word(text), queue_s=queue_s, prefill_s=prefill_s)


def parts(call: CallTiming) -> dict[str, float]:
    return {phase: round(time_s, 6) for phase, time_s in call.phases() if time_s}


def test_each_call_has_its_phases():
    meta: list[list[Item]] = [
        [Pause(1.0), first("It is ", queue_s=0.25, prefill_s=0.5), Pause(2.0), to("chem")]
    ]
    chem: list[list[Item]] = [
        [Pause(0.5), first("H2", prefill_s=0.375), Pause(3.0), word("O"), Pause(4.0), STOP]
    ]
    _, done = answer(playing(meta=meta, chem=chem))
    timing = done.timing
    assert [(call.model, parts(call)) for call in timing.calls] == [
        ("meta", {"hop": 0.25, "engine_queue": 0.25, "prefill": 0.5, "decision": 2.0}),
        ("chem", {"hop": 0.125, "prefill": 0.375, "decode": 7.0}),
    ]
    assert timing.first_text_s == 1.0
    assert timing.total_s == 10.5


def test_the_start_of_a_model_counts_as_queueing():
    routes = FakeRoutes(ready=("law",), starts={"chem": Pause(20.0)})
    models = playing(meta=[[to("chem")]], chem=[[word("a"), STOP]])
    _, done = answer(models, routes=routes, experts={"chem": ModelEntry(app="chem", scales_to_zero=True)})
    assert [parts(call) for call in done.timing.calls] == [{}, {"queue": 20.0}]


class SlowToClose(FakeModel):
    async def stream(self, ask: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        try:
            async with aclosing(super().stream(ask)) as chunks:
                async for chunk in chunks:
                    yield chunk
        finally:
            await asyncio.sleep(0.5)


def test_the_time_between_two_calls_is_counted():
    """It counts as queueing of the second call."""
    meta = SlowToClose(lambda ask: [Pause(1.0), word("a"), to("chem")])
    _, done = answer({**playing(chem=[[word("b"), STOP]]), "meta": meta})
    assert [parts(call) for call in done.timing.calls] == [{"hop": 1.0}, {"queue": 0.5}]
    assert done.timing.total_s == 1.5


def test_a_failed_call_counts_the_time_lost():
    meta: list[list[Item]] = [
        [word("a"), Pause(1.0), word("b"), Pause(2.0), GONE],
        [Pause(0.5), word("c"), STOP],
    ]
    _, done = answer(playing(meta=meta))
    lost, resumed = done.timing.calls
    assert parts(lost) == {"decode": 1.0, "lost": 2.0}
    assert (resumed.hop_s, 0.0 < resumed.queue_s < 0.1) == (0.5, True)  # the pause before the retry


@dataclass
class RecordingMeter:
    """A meter that keeps everything."""

    timings: list[Timing] = field(default_factory=list)

    def ended(self, timing: Timing) -> None:
        self.timings.append(timing)


@pytest.mark.parametrize("leaves", [False, True])
def test_the_time_that_the_client_takes_is_relaying_also_if_it_leaves(leaves: bool):
    meter = RecordingMeter()
    models = playing(meta=[[word("a"), word("b"), word("c"), STOP]])

    async def read_slowly() -> None:
        stream = Decoder(expert_table(), models, FakeRoutes(), meter=meter).decode(GENERATION)
        try:
            async for item in stream:
                await asyncio.sleep(1.0)
                if leaves and isinstance(item, TextDelta) and item.text == "b":
                    return
        finally:
            await stream.aclose()

    in_virtual_time(read_slowly())
    [timing] = meter.timings
    assert parts(timing.calls[0]) == {"relay": 1.0 if leaves else 3.0}
    assert timing.first_text_s == 0.0


def test_a_failed_answer_is_metered_once():
    meter = RecordingMeter()
    models = playing(meta=[[Pause(1.0), ModelFailed("broken")]])

    async def ask() -> list[Delta | Done]:
        return [
            item
            async for item in Decoder(expert_table(), models, FakeRoutes(), meter=meter).decode(GENERATION)
        ]

    with pytest.raises(RouterError, match="broken"):
        in_virtual_time(ask())
    [timing] = meter.timings
    assert parts(timing.calls[0]) == {"lost": 1.0}
    assert timing.first_text_s is None
