"""What an answer does about an expert that sleeps: wait for it, or let the meta answer meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest

from router.decode import Decoder
from router.errors import ModelFailed, Overloaded, WakeFailed
from router.job import Delta, Job
from router.table import META, Limits, ModelEntry
from tests.answering import answer
from tests.fake_routes import FakeRoutes
from tests.fakes import (
    DIRECT,
    GONE,
    JOB,
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


def sleepy(cold_start: str = "wait") -> dict[str, Any]:
    """`chem` may sleep; the others stay up."""
    chem = ModelEntry(app="chem", wakes=True, cold_start=cold_start)
    return {"experts": {"chem": chem, "law": ModelEntry(app="law"), "weather": ModelEntry(app="weather")}}


def chem_starts(start: Any) -> FakeRoutes:
    return FakeRoutes(ready={"law", "weather"}, starts={"chem": start})


@pytest.mark.parametrize("job", [JOB, DIRECT])
def test_an_answer_waits_for_its_expert_and_loses_none_of_its_time(job: Any):
    routes = chem_starts(Pause(299))
    models = playing(meta=[[word("a"), to("chem")]], chem=[[Pause(29), word("b"), Pause(9), STOP]])
    text, done = answer(models, job, routes, **sleepy(), deadlines={"total_s": 40}, retries=0)
    assert (text, routes.num_starts) == ("ab" if job is JOB else "b", {"chem": 1})
    assert num_calls(models)["chem"] == done.usage_by_model["chem"].num_calls == 1


@pytest.mark.parametrize("start", [Pause(301), ModelFailed("broken")])
def test_an_expert_that_does_not_start_is_masked_and_the_next_best_is_reached(start: Any):
    models = playing(meta=[[word("a"), to("chem")], [to("law")]], law=[[word("b"), STOP]])
    text, _ = answer(models, JOB, chem_starts(start), **sleepy(), max_handoffs=1, retries=5)
    assert (text, num_calls(models)) == ("ab", {META: 2, "law": 1})
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("a", 1, ("law", "weather"))


@pytest.mark.parametrize("start", [Pause(301), ModelFailed("broken")])
def test_whoever_asks_for_it_by_name_is_told(start: Any):
    models = playing()
    routes = chem_starts(start)
    with pytest.raises(WakeFailed):
        answer(models, DIRECT, routes, **sleepy(), retries=5)
    assert (num_calls(models), routes.num_starts) == ({}, {"chem": 1})


@pytest.mark.parametrize(("when_away", "waits_s"), [("meta", 0.0), ("wait", 30.0)])
def test_an_expert_that_died_is_waited_for_no_longer_than_one_that_never_sleeps(
    when_away: str, waits_s: float
):
    """The meta could have gone on at once, and waited as for a first token: the expert was asleep again."""
    routes = chem_starts(Pause(31))
    routes.ready = {"chem", "law"}
    table = sleepy()
    table["experts"]["chem"] = table["experts"]["chem"].model_copy(update={"when_away": when_away})

    def dies(ask: Any) -> Any:
        routes.ready = {"law"}
        return [word("b"), GONE]

    models = playing(meta=[[word("a"), to("chem")], [word("c"), STOP]])
    models["chem"].script = dies
    decoder = Decoder(expert_table(**table, retries=1), models, routes, retry_pause_s=0)
    assert in_virtual_time(_timed(_text(decoder))) == ("abc", waits_s)
    assert num_calls(models) == {META: 2, "chem": 1}


def test_all_the_models_that_an_answer_starts_have_one_deadline_together():
    """Each had its own, so an answer could take longer than nodes and pods wait for it."""
    wakes = {name: ModelEntry(app=name, wakes=True) for name in ("chem", "law")}
    routes = FakeRoutes(ready=(META,), starts={"chem": Pause(200), "law": Pause(101)})
    models = playing(meta=[[to("chem")], [to("law")], [word("c"), STOP]], chem=[[word("a"), STOP]])
    decoder = Decoder(expert_table(experts=wakes, after_expert="return"), models, routes)
    assert in_virtual_time(_timed(_text(decoder))) == ("ac", 300.0)


def test_no_more_wait_for_a_start_than_may_wait_and_the_greediest_key_gives_way():
    routes = chem_starts(Pause(60))
    models = {**playing(), "chem": FakeModel(lambda _: [word("a"), STOP])}
    limits = Limits(max_waiting=2)
    decoder = Decoder(expert_table(**sleepy(), limits=limits), models, routes)

    async def main() -> list[str | BaseException]:
        jobs = [replace(DIRECT, key=key) for key in ("greedy", "greedy", "greedy", "modest")]
        return await asyncio.gather(*(_text(decoder, job) for job in jobs), return_exceptions=True)

    first, second, third, modest = in_virtual_time(main())
    assert (first, modest) == ("a", "a")
    assert isinstance(second, Overloaded)
    assert "others have fewer answers waiting" in str(second)
    assert isinstance(third, Overloaded)
    assert "2 answers wait already" in str(third)


def test_the_meta_goes_on_at_the_same_place_while_its_expert_starts():
    routes = chem_starts(Pause(60))
    models = playing(meta=[[word("a"), to("chem")], [to("law")]], law=[[word("b"), STOP]])
    text, done = answer(models, JOB, routes, **sleepy("meta"), max_handoffs=1, retries=0)
    assert (text, routes.num_starts, num_calls(models)) == ("ab", {"chem": 1}, {META: 2, "law": 1})
    again = models[META].asks[1]
    assert (again.written, again.position, again.allowed) == ("a", 1, ("law", "weather"))
    assert [(span.model, span.text) for span in done.spans] == [("meta", "a"), ("law", "b")]


def test_while_it_starts_nobody_calls_for_it_and_then_it_is_an_expert_as_any():
    routes = chem_starts(Pause(60))
    meta = [[to("chem")], [word("a"), STOP], [word("b"), STOP], [to("chem")]]
    models = playing(meta=meta, chem=[[word("c"), STOP]])
    decoder = Decoder(expert_table(**sleepy("meta")), models, routes)

    async def main() -> list[str]:
        texts = [await _text(decoder), await _text(decoder)]
        await asyncio.sleep(61)
        return [*texts, await _text(decoder)]

    assert in_virtual_time(main()) == ["a", "b", "c"]
    assert ["chem" in ask.allowed for ask in models[META].asks] == [True, False, False, True]
    assert routes.num_starts == {"chem": 1}


def test_whoever_asks_by_name_waits_also_where_the_meta_would_answer():
    models = playing(chem=[[word("a"), STOP]])
    assert answer(models, DIRECT, chem_starts(Pause(60)), **sleepy("meta"))[0] == "a"


def test_a_question_for_the_distribution_starts_nothing():
    routes = chem_starts(Pause(60))
    models = playing(meta=[[replace(to("chem"), distribution={"chem": 0.9})]])
    piece = in_virtual_time(Decoder(expert_table(**sleepy("meta")), models, routes).distribution(JOB))
    assert (piece.expert, routes.num_starts) == ("chem", {})


async def _text(decoder: Decoder, job: Job = JOB) -> str:
    return "".join([item.text async for item in decoder.decode(job) if isinstance(item, Delta)])


async def _timed(text: Awaitable[str]) -> tuple[str, float]:
    clock = asyncio.get_running_loop().time
    began_s = clock()
    return await text, round(clock() - began_s, 1)
