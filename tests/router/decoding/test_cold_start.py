"""Experts that are asleep: an answer waits for the start, or the meta answers meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from router.admission.context import AdmissionContext
from router.decoding.decode import Decoder
from router.decoding.generation import GenerationRequest
from router.errors import ModelFailed, Overloaded, WakeFailed
from router.table import META, ModelEntry
from tests.fakes.availability import FakeRoutes
from tests.fakes.models import (
    DIRECT,
    GENERATION,
    GONE,
    STOP,
    FakeModel,
    Pause,
    expert_table,
    in_virtual_time,
    num_calls,
    playing,
    to,
    word,
)
from tests.support.answering import answer, text_of


def with_sleeping_chem(cold_start: str = "wait") -> dict[str, Any]:
    """Changes of the table: only `chem` scales to zero."""
    chem = ModelEntry(app="chem", scales_to_zero=True, cold_start=cold_start)
    return {"experts": {"chem": chem, "law": ModelEntry(app="law"), "weather": ModelEntry(app="weather")}}


def chem_starts(start: Any) -> FakeRoutes:
    return FakeRoutes(ready={"law", "weather"}, starts={"chem": start})


@pytest.mark.parametrize("generation", [GENERATION, DIRECT])
def test_waiting_for_a_start_does_not_count_into_the_total_time(generation: Any):
    routes = chem_starts(Pause(299))
    models = playing(meta=[[word("a"), to("chem")]], chem=[[Pause(29), word("b"), Pause(9), STOP]])
    text, done = answer(
        models, generation, routes, **with_sleeping_chem(), deadlines={"total_s": 40}, retries=0
    )
    assert (text, routes.num_starts) == ("ab" if generation is GENERATION else "b", {"chem": 1})
    assert num_calls(models)["chem"] == done.usage_by_model["chem"].num_calls == 1


@pytest.mark.parametrize("start", [Pause(301), ModelFailed("broken")])
def test_an_expert_that_does_not_start_is_masked_and_the_next_best_one_is_reached(start: Any):
    models = playing(meta=[[word("a"), to("chem")], [to("law")]], law=[[word("b"), STOP]])
    text, _ = answer(
        models, GENERATION, chem_starts(start), **with_sleeping_chem(), max_handoffs=1, retries=5
    )
    assert (text, num_calls(models)) == ("ab", {META: 2, "law": 1})
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("a", 1, ("law", "weather"))


@pytest.mark.parametrize("start", [Pause(301), ModelFailed("broken")])
def test_a_failed_start_is_an_error_if_the_expert_is_addressed_by_name(start: Any):
    models = playing()
    routes = chem_starts(start)
    with pytest.raises(WakeFailed):
        answer(models, DIRECT, routes, **with_sleeping_chem(), retries=5)
    assert (num_calls(models), routes.num_starts) == ({}, {"chem": 1})


@pytest.mark.parametrize(("on_unavailable", "waits_s"), [("meta", 0.0), ("wait", 30.0)])
def test_an_expert_that_died_is_waited_for_no_longer_than_one_that_never_sleeps(
    on_unavailable: str, waits_s: float
):
    """The meta can go on at once, though the expert is asleep and not unavailable."""
    routes = chem_starts(Pause(31))
    routes.ready = {"chem", "law"}
    table = with_sleeping_chem()
    table["experts"]["chem"] = table["experts"]["chem"].model_copy(update={"on_unavailable": on_unavailable})

    def dies(ask: Any) -> Any:
        routes.ready = {"law"}
        return [word("b"), GONE]

    models = playing(meta=[[word("a"), to("chem")], [word("c"), STOP]])
    models["chem"].script = dies
    decoder = Decoder(expert_table(**table, retries=1), models, routes, retry_pause_s=0)
    assert in_virtual_time(_timed(_text(decoder))) == ("abc", waits_s)
    assert num_calls(models) == {META: 2, "chem": 1}


def test_all_starts_of_an_answer_share_one_deadline():
    """Otherwise an answer could outlast the time that nodes and pods give it to end."""
    scales_to_zero = {name: ModelEntry(app=name, scales_to_zero=True) for name in ("chem", "law")}
    routes = FakeRoutes(ready=(META,), starts={"chem": Pause(200), "law": Pause(101)})
    models = playing(meta=[[to("chem")], [to("law")], [word("c"), STOP]], chem=[[word("a"), STOP]])
    decoder = Decoder(expert_table(experts=scales_to_zero, after_expert="return"), models, routes)
    assert in_virtual_time(_timed(_text(decoder))) == ("ac", 300.0)


def test_calls_that_wait_for_a_start_are_bounded_and_the_greediest_key_gives_way():
    routes = chem_starts(Pause(60))
    models = {**playing(), "chem": FakeModel(lambda _: [word("a"), STOP])}
    decoder = Decoder(expert_table(**with_sleeping_chem()), models, routes)

    async def main() -> list[str | BaseException]:
        contexts = [
            AdmissionContext(queue_s=5.0, max_waiting=2, key=key)
            for key in ("greedy", "greedy", "greedy", "modest")
        ]
        generations = [replace(DIRECT, admission=context) for context in contexts]
        return await asyncio.gather(
            *(_text(decoder, generation) for generation in generations), return_exceptions=True
        )

    first, second, third, modest = in_virtual_time(main())
    assert (first, modest) == ("a", "a")
    assert isinstance(second, Overloaded)
    assert "your API key has the most answers waiting" in str(second)
    assert isinstance(third, Overloaded)
    assert "2 answers are waiting already" in str(third)


def test_the_meta_continues_at_the_same_position_while_its_expert_starts():
    routes = chem_starts(Pause(60))
    models = playing(meta=[[word("a"), to("chem")], [to("law")]], law=[[word("b"), STOP]])
    text, done = answer(models, GENERATION, routes, **with_sleeping_chem("meta"), max_handoffs=1, retries=0)
    assert (text, routes.num_starts, num_calls(models)) == ("ab", {"chem": 1}, {META: 2, "law": 1})
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("a", 1, ("law", "weather"))
    assert [(span.model, span.text) for span in done.spans] == [("meta", "a"), ("law", "b")]


def test_an_expert_is_not_allowed_while_it_starts_and_allowed_afterwards():
    routes = chem_starts(Pause(60))
    meta = [[to("chem")], [word("a"), STOP], [word("b"), STOP], [to("chem")]]
    models = playing(meta=meta, chem=[[word("c"), STOP]])
    decoder = Decoder(expert_table(**with_sleeping_chem("meta")), models, routes)

    async def main() -> list[str]:
        texts = [await _text(decoder), await _text(decoder)]
        await asyncio.sleep(61)
        return [*texts, await _text(decoder)]

    assert in_virtual_time(main()) == ["a", "b", "c"]
    assert ["chem" in ask.allowed for ask in models[META].asks] == [True, False, False, True]
    assert routes.num_starts == {"chem": 1}


def test_an_expert_addressed_by_name_is_waited_for_also_with_cold_start_meta():
    models = playing(chem=[[word("a"), STOP]])
    assert answer(models, DIRECT, chem_starts(Pause(60)), **with_sleeping_chem("meta"))[0] == "a"


def test_a_probe_of_the_distribution_starts_no_expert():
    routes = chem_starts(Pause(60))
    models = playing(meta=[[replace(to("chem"), distribution={"chem": 0.9})]])
    found = in_virtual_time(
        Decoder(expert_table(**with_sleeping_chem("meta")), models, routes).distribution(GENERATION)
    )
    assert (found.chunk.expert, routes.num_starts) == ("chem", {})


async def _text(decoder: Decoder, generation: GenerationRequest = GENERATION) -> str:
    return await text_of(decoder, generation)


async def _timed(text: Awaitable[str]) -> tuple[str, float]:
    clock = asyncio.get_running_loop().time
    began_s = clock()
    return await text, round(clock() - began_s, 1)
