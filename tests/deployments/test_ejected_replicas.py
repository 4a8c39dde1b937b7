"""The state of a route while some of its model's replicas hang or are gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import replace
from typing import Any

import pytest

from deployments.model_gateway import ModelGateway
from router.availability import ModelState
from router.errors import ModelUnavailable
from router.model_port import ModelChunk, ModelRequest
from router.table import Deadlines, ModelEntry
from tests.fakes.cluster import REQUEST, Cluster, FakeApp, call, gateway_to, settle, table
from tests.fakes.models import STOP, Pause, in_virtual_time, word

MASKED, UNAVAILABLE, READY = ModelState.MASKED, ModelState.UNAVAILABLE, ModelState.READY


@asynccontextmanager
async def chem_on(*replicas: str, **entry: Any) -> AsyncIterator[tuple[ModelGateway, FakeApp]]:
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


async def fails(gateway: ModelGateway) -> None:
    with pytest.raises(ModelUnavailable):
        await call(gateway, "chem")


async def stalls(gateway: ModelGateway) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await call(gateway, "chem")
    gateway.stalled("chem", REQUEST.request_id)


def test_a_replica_that_dies_is_ejected_and_the_route_stays_open():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            assert gateway.state("chem") is READY
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1", "r2"]

    in_virtual_time(main())


def test_a_replica_that_hangs_is_ejected_at_its_first_stall():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.hung = {"r1"}
            assert gateway.ejected == {}
            await stalls(gateway)
            assert gateway.state("chem") is READY
            assert gateway.ejected == {"chem": {"r1": "it produced nothing in time"}}
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1", "r2"]

    in_virtual_time(main())


def test_an_ejected_replica_beside_healthy_ones_is_probed_less_and_less_often():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(100)
            assert chem.reached == ["r1"] * (1 + 8)  # the call, then after 0, 1, 3, 7, 15, 31, 61, 91 s
            chem.broken = set()
            await settle(31)
            assert chem.replicas.ejected == set()
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached[-2:] == ["r1", "r1"]

    in_virtual_time(main())


def test_an_ejected_replica_is_probed_soon_when_no_healthy_one_is_left():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(65)  # the next probe of r1 would be sent at 91 s
            chem.broken = {"r2"}
            await fails(gateway)
            assert gateway.state("chem") is UNAVAILABLE
            await settle(3)
            assert gateway.state("chem") is READY

    in_virtual_time(main())


@pytest.mark.parametrize("how", ["broken", "hung"])
def test_a_model_whose_last_replica_failed_is_unavailable_until_one_answers(how: str):
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            setattr(chem, how, {"r1", "r2"})
            for _ in range(2):
                await (fails(gateway) if how == "broken" else stalls(gateway))
            assert gateway.state("chem") is UNAVAILABLE
            waiting = asyncio.create_task(gateway.wait_until_ready("chem"))
            await settle()
            assert not waiting.done()
            chem.broken, chem.hung = set(), set()
            await asyncio.wait_for(waiting, 6)
            assert gateway.state("chem") is READY

    in_virtual_time(main())


def test_the_replacement_of_the_last_replica_must_answer_first():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.broken, chem.hung = {"r1"}, {"r2"}
            await fails(gateway)
            chem.comes_up("r2")
            assert gateway.state("chem") is UNAVAILABLE
            await settle()
            assert gateway.state("chem") is UNAVAILABLE
            chem.comes_up("r2", "r3")
            assert gateway.state("chem") is UNAVAILABLE
            await settle(4)
            assert (gateway.state("chem"), {*chem.replicas.ejected}) == (READY, {"r2"})

    in_virtual_time(main())


def test_a_replica_that_joins_a_healthy_one_is_used_without_a_probe():
    async def main() -> None:
        async with chem_on("r2") as (gateway, chem):
            chem.comes_up("r1", "r2")
            assert gateway.state("chem") is READY
            assert await call(gateway, "chem") == [STOP]
            assert chem.reached == ["r1"]

    in_virtual_time(main())


def test_a_model_without_replicas_is_unavailable_or_asleep():
    async def main(scales_to_zero: bool) -> list[ModelState]:
        async with chem_on("r1", scales_to_zero=scales_to_zero) as (gateway, chem):
            chem.falls_asleep()
            away = gateway.state("chem")
            await settle(2)
            chem.comes_up("r2")
            await settle(2)
            return [away, gateway.state("chem")]

    assert in_virtual_time(main(scales_to_zero=False)) == [UNAVAILABLE, READY]
    assert in_virtual_time(main(scales_to_zero=True)) == [ModelState.ASLEEP, READY]


def test_an_ejected_replica_that_has_left_is_not_probed():
    async def main() -> None:
        async with chem_on("r1", "r2") as (gateway, chem):
            chem.broken = {"r1"}
            await fails(gateway)
            await settle(0.5)
            chem.comes_up("r2")
            await settle(100)
            assert (chem.reached, {*chem.replicas.ejected}) == (["r1", "r1"], set())

    in_virtual_time(main())


def test_a_stalled_call_that_no_replica_had_ejects_none():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            gateway.stalled("chem", "unknown")
            gateway.stalled("nobody", REQUEST.request_id)
            assert (gateway.state("chem"), {*chem.replicas.ejected}) == (READY, set())

    in_virtual_time(main())


def test_any_answer_of_an_ejected_replica_clears_it():
    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.script = lambda request: [ModelChunk("a", 1), ModelChunk("b", 1), STOP]
            chunks = gateway.models["chem"].stream(REQUEST)
            await anext(chunks)
            chem.hung = {"r1"}
            gateway.stalled("chem", REQUEST.request_id)
            assert gateway.state("chem") is UNAVAILABLE
            await anext(chunks)
            assert gateway.state("chem") is READY
            await chunks.aclose()

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


def test_a_router_has_slots_for_what_its_replicas_take_and_a_few_more():
    """It sent twice what they take, and all of that waited outside the fair queue."""

    async def main() -> None:
        async with chem_on("r1", "r2", max_streams=8) as (gateway, chem):
            assert gateway.num_slots("chem") == 4
            chem.script = lambda request: [word("a"), Pause(1), STOP]
            asks = [replace(REQUEST, request_id=str(number)) for number in range(3)]
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

    def script(_: ModelRequest) -> list[ModelChunk]:
        seen.append(request.get())
        return [STOP]

    async def main() -> None:
        async with chem_on("r1") as (gateway, chem):
            chem.script = script
            request.set("the caller's")
            gateway.models["chem"].replicas.eject("r1", "test")
            gateway.refresh_app("chem")
            await settle()
            assert seen == [""]

    in_virtual_time(main())
