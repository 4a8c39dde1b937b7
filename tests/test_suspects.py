"""What becomes of a route while some of its model's replicas hang or are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from deployments.gateway import Gateway
from router.errors import ModelUnavailable
from router.model import Ask, Piece
from router.routes import State
from router.table import Deadlines, ModelEntry
from tests.fake_cluster import ASK, Cluster, FakeApp, call, gateway_to, settle, table
from tests.fakes import STOP, Pause, in_virtual_time, word

MASKED, AWAY, READY = State.MASKED, State.AWAY, State.READY


@asynccontextmanager
async def chem_on(*replicas: str, **entry: Any) -> AsyncIterator[tuple[Gateway, FakeApp]]:
    """A gateway whose route to `chem` is open, and the application with these replicas."""
    cluster = Cluster()
    chem = cluster.models["chem"]
    chem.comes_up(*replicas)
    experts = {"chem": ModelEntry(app="chem", **entry)}
    async with gateway_to(cluster, table(experts=experts, deadlines=Deadlines(first_token_s=3))) as gateway:
        await settle()
        assert gateway.state("chem") is READY
        chem.reached.clear()
        yield gateway, chem


async def fails(gateway: Gateway) -> None:
    with pytest.raises(ModelUnavailable):
        await call(gateway, "chem")


async def stalls(gateway: Gateway) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await call(gateway, "chem")
    gateway.stalled("chem", ASK.request_id)


def test_one_of_two_that_dies_is_avoided_and_the_route_stays_open():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            assert gateway.state("chem") is READY
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1", "r2"]

    in_virtual_time(main())


def test_one_of_two_that_hangs_is_avoided_from_its_first_stall_on():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.hung = {"r1"}
            await stalls(gateway)
            assert gateway.state("chem") is READY
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1", "r2"]

    in_virtual_time(main())


def test_a_suspect_beside_others_is_asked_ever_more_rarely_and_used_again_once_it_answers():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(100)
            assert chem.reached == ["r1"] * (1 + 8)  # the call, then after 0, 1, 3, 7, 15, 31, 61, 91 s
            chem.broken = set()
            await settle(31)
            assert chem.replicas.suspects == set()
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached[-2:] == ["r1", "r1"]

    in_virtual_time(main())


def test_a_suspect_that_is_left_alone_is_asked_soon():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(65)  # the next question to r1 would come at 91 s
            chem.broken = {"r2"}
            await fails(gateway)
            assert gateway.state("chem") is AWAY
            await settle(3)
            assert gateway.state("chem") is READY

    in_virtual_time(main())


@pytest.mark.parametrize("how", ["broken", "hung"])
def test_a_model_whose_last_replica_went_is_away_and_waited_for_until_it_answers(how: str):
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            setattr(chem, how, {"r1", "r2"})
            for _ in range(2):
                await (fails(gateway) if how == "broken" else stalls(gateway))
            assert gateway.state("chem") is AWAY
            waiting = asyncio.create_task(gateway.awake("chem"))
            await settle()
            assert not waiting.done()
            chem.broken, chem.hung = set(), set()
            await asyncio.wait_for(waiting, 6)
            assert gateway.state("chem") is READY

    in_virtual_time(main())


def test_what_replaces_the_last_replica_must_answer_first():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.broken, chem.hung = {"r1"}, {"r2"}
            await fails(gateway)
            chem.comes_up("r2")
            assert gateway.state("chem") is AWAY
            await settle()
            assert gateway.state("chem") is AWAY
            chem.comes_up("r2", "r3")
            assert gateway.state("chem") is AWAY
            await settle(4)
            assert (gateway.state("chem"), {*chem.replicas.suspects}) == (READY, {"r2"})

    in_virtual_time(main())


def test_a_replica_that_joins_one_that_answers_is_used_unasked():
    async def main() -> None:
        async with chem_on("r2") as (gateway, chem):
            chem.comes_up("r1", "r2")
            assert gateway.state("chem") is READY
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1"]

    in_virtual_time(main())


def test_a_model_without_replicas_is_away_until_one_is_back_unless_it_sleeps():
    async def main(wakes: bool) -> list[State]:
        async with chem_on("r1", wakes=wakes) as (gateway, chem):
            chem.falls_asleep()
            away = gateway.state("chem")
            await settle(2)
            chem.comes_up("r2")
            await settle(2)
            return [away, gateway.state("chem")]

    assert in_virtual_time(main(wakes=False)) == [AWAY, READY]
    assert in_virtual_time(main(wakes=True)) == [State.ASLEEP, READY]


def test_nobody_asks_a_suspect_that_has_left():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(0.5)
            chem.comes_up("r2")
            await settle(100)
            assert (chem.reached, {*chem.replicas.suspects}) == (["r1", "r1"], set())

    in_virtual_time(main())


def test_a_call_that_no_replica_had_yet_is_held_against_none():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            gateway.stalled("chem", "unknown")
            gateway.stalled("nobody", ASK.request_id)
            assert (gateway.state("chem"), {*chem.replicas.suspects}) == (READY, set())

    in_virtual_time(main())


def test_an_answer_of_a_suspect_to_anybody_clears_it():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.script = lambda ask: [Piece("a", 1), Piece("b", 1), STOP]
            pieces = gateway.models["chem"].stream(ASK)
            await anext(pieces)
            chem.hung = {"r1"}
            gateway.stalled("chem", ASK.request_id)
            assert gateway.state("chem") is AWAY
            await anext(pieces)
            assert gateway.state("chem") is READY
            await pieces.aclose()

    in_virtual_time(main())


def test_a_models_own_deadline_bounds_its_probes():
    async def main() -> None:
        async with chem_on("r1", first_token_s=50) as (gateway, chem):
            chem.hung = {"r1"}
            await stalls(gateway)
            await settle(49)
            assert chem.reached == ["r1", "r1"]
            await settle(4)
            assert chem.reached == ["r1", "r1", "r1"]

    in_virtual_time(main())


def test_a_router_sends_what_replicas_take_and_a_few_more():
    """It sent twice what they take, and so did every router: all of that waited where nobody counts."""

    async def main() -> None:
        async with chem_on("r1", "r2", max_streams=8) as (gateway, chem):
            assert gateway.num_slots("chem") == 4
            chem.script = lambda ask: [word("a"), Pause(1), STOP]
            asks = [replace(ASK, request_id=str(number)) for number in range(3)]
            calls = [asyncio.create_task(call(gateway, "chem", ask)) for ask in asks]
            await settle(0.5)
            assert gateway.num_slots("chem") == 4 + 3
            await asyncio.gather(*calls)
            assert gateway.num_slots("chem") == 4
            chem.falls_asleep()
            assert gateway.num_slots("chem") == 2
            assert gateway.num_slots("nobody") == 1

    in_virtual_time(main())


def test_a_probe_belongs_to_no_request():
    request: ContextVar[str] = ContextVar("request", default="")
    seen: list[str] = []

    def tells(ask: Ask) -> list[Piece]:
        seen.append(request.get())
        return [STOP]

    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.script = tells
            request.set("the caller's")
            gateway.models["chem"].replicas.suspect("r1", "test")
            gateway.lost("chem")
            await settle()
            assert seen == [""]

    in_virtual_time(main())
