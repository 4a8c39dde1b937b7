"""How a gateway starts what sleeps, notices who woke, and keeps its routes when the table changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.gateway import LOOK_PERIOD_S
from deployments.probe import PROBE
from router.decode import Decoder
from router.errors import ModelFailed, ModelUnavailable, WakeFailed
from router.job import Delta
from router.routes import State
from router.table import Deadlines, ModelEntry, RouteTable
from tests.fake_cluster import Cluster, FakeApp, call, gateway_to, opened, settle, table
from tests.fakes import GONE, JOB, STOP, Item, Pause, in_virtual_time, to, word

ASLEEP, WAKING, READY, MASKED = State.ASLEEP, State.WAKING, State.READY, State.MASKED


def sleepy(*others: str, wakes: bool = True, **changes: Any) -> RouteTable:
    entries = {name: ModelEntry(app=name) for name in others}
    return table(experts={**entries, "chem": ModelEntry(app="chem", wakes=wakes)}, **changes)


def asleep(**scripts: Any) -> tuple[Cluster, FakeApp]:
    cluster = Cluster(**scripts)
    cluster.models["chem"].falls_asleep()
    return cluster, cluster.models["chem"]


def test_what_sleeps_is_connected_but_not_asked_until_somebody_needs_it():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            assert (gateway.state("chem"), chem.asks, cluster.connects.count("chem")) == (ASLEEP, [], 1)
            gateway.wake("chem")
            assert gateway.state("chem") is WAKING
            await settle(59)
            assert gateway.state("chem") is WAKING
            await settle(2)
            assert (gateway.state("chem"), chem.asks) == (READY, [PROBE])

    in_virtual_time(main())


def test_however_many_wait_there_is_one_start_and_who_leaves_takes_it_from_nobody():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            first, *others = [asyncio.create_task(gateway.awake("chem")) for _ in range(8)]
            await settle(30)
            first.cancel()
            late = asyncio.create_task(gateway.awake("chem"))
            await asyncio.gather(*others, late)
            await gateway.awake("chem")
            assert (chem.num_starts, chem.asks, first.cancelled()) == (1, [PROBE], True)

    in_virtual_time(main())


def test_a_start_that_is_asked_for_before_the_application_is_known_is_not_forgotten():
    async def main() -> None:
        cluster, chem = asleep()
        cluster.failures["chem"] = [ModelUnavailable("no such application")] * 3
        async with gateway_to(cluster, sleepy()) as gateway:
            await gateway.awake("chem")
            assert (gateway.state("chem"), chem.num_starts) == (READY, 1)

    in_virtual_time(main())


@pytest.mark.parametrize(
    ("start_s", "script", "after_s"),
    [(200, [], 100), (0, [[ModelFailed("broken")]], 0), (0, [[GONE]] * 99, 98)],
)
def test_a_start_that_fails_is_told_to_all_who_wait_and_the_next_caller_tries_again(
    start_s: float, script: list[list[Item]], after_s: float
):
    async def main() -> None:
        cluster, chem = asleep(chem=script)
        chem.start_s = start_s
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(wake_s=100))) as gateway:
            clock = asyncio.get_running_loop().time
            began = clock()
            failures = await asyncio.gather(
                *[gateway.awake("chem") for _ in range(2)], return_exceptions=True
            )
            assert [type(failure) for failure in failures] == [WakeFailed] * 2
            assert after_s <= clock() - began <= 100
            assert gateway.state("chem") in (ASLEEP, MASKED)
            chem.script, chem.start_s = lambda ask: [STOP], 1
            await gateway.awake("chem")
            assert gateway.state("chem") is READY

    in_virtual_time(main())


def test_a_model_that_runs_and_answers_nothing_right_is_masked_until_it_does():
    async def main() -> None:
        cluster = Cluster(chem=[[ModelFailed("broken")]] * 3)
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle(0.5)
            assert gateway.state("chem") is MASKED
            await settle()
            assert gateway.state("chem") is READY

    in_virtual_time(main())


def test_what_another_router_woke_is_noticed_and_asked_once():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            chem.comes_up()
            assert gateway.state("chem") is WAKING
            await settle(1.1 * LOOK_PERIOD_S)
            assert (gateway.state("chem"), chem.asks) == (READY, [PROBE])

    in_virtual_time(main())


def test_what_fell_asleep_is_seen_at_once_and_asked_anew_when_it_is_back():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [Pause(5), STOP]])
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            assert gateway.state("chem") is READY
            chem.falls_asleep()
            assert gateway.state("chem") is ASLEEP
            gateway.wake("chem")
            await settle(62)
            assert gateway.state("chem") is WAKING, "it runs, but has not answered since"
            await settle()
            assert (gateway.state("chem"), chem.num_starts) == (READY, 1)

    in_virtual_time(main())


def test_a_sleeper_found_away_is_closed_and_not_started_for_nothing():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [GONE], [GONE]])
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            assert gateway.state("chem") is State.AWAY
            await settle(0.05)
            chem.falls_asleep()
            await settle()
            assert (gateway.state("chem"), len(chem.asks), chem.num_starts) == (ASLEEP, 3, 0)

    in_virtual_time(main())


@pytest.mark.parametrize("how", ["close", "install"])
def test_who_waits_is_told_when_the_route_goes(how: str):
    async def main() -> None:
        cluster, _ = asleep()
        async with gateway_to(cluster, sleepy("law")) as gateway:
            waiting = asyncio.create_task(gateway.awake("chem"))
            await settle(1)
            await (gateway.close() if how == "close" else gateway.install(table("law", epoch=2)))
            with pytest.raises(ModelUnavailable):
                await waiting
            with pytest.raises(ModelUnavailable):
                await gateway.awake("chem")
            assert gateway.state("chem") is MASKED

    in_virtual_time(main())


def test_scaling_to_zero_and_back_closes_nothing_that_runs():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, sleepy(wakes=False)) as gateway:
            await settle()
            for epoch, wakes in enumerate([True, False, True], 2):
                await gateway.install(sleepy(wakes=wakes, epoch=epoch))
                assert opened(gateway) == {"meta", "chem"}
                await settle()
            assert (cluster.num_calls("chem"), cluster.connects.count("chem")) == (1, 1)

    in_virtual_time(main())


def test_a_sleeper_that_shall_stay_up_from_now_on_is_masked_until_it_answers():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            await gateway.install(sleepy(wakes=False, epoch=2))
            assert gateway.state("chem") is MASKED
            await settle(61)
            assert (gateway.state("chem"), chem.asks[-1]) == (READY, PROBE)

    in_virtual_time(main())


@pytest.mark.parametrize("wakes", [True, False])
def test_a_new_table_interrupts_no_start(wakes: bool):
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(first_token_s=90))) as gateway:
            waiting = asyncio.create_task(gateway.awake("chem"))
            await settle(30)
            await gateway.install(sleepy("law", wakes=wakes, epoch=2))
            await waiting
            assert (gateway.state("chem"), chem.num_starts, chem.asks) == (READY, 1, [PROBE])

    in_virtual_time(main())


@pytest.mark.parametrize("wakes", [False, True])
@pytest.mark.parametrize(
    ("rest", "expected"), [([word("c"), STOP], "abc"), ([GONE], "abd"), ([Pause()], "abd"), ([], "abd")]
)
def test_an_expert_taken_away_ends_what_it_writes_or_is_replaced_where_it_fails(
    wakes: bool, rest: list[Item], expected: str
):
    async def main() -> None:
        cluster = Cluster(
            meta=[[STOP], [word("a"), to("chem")], [to("law")]],
            chem=[[STOP], [word("b"), Pause(5), *rest]],
            law=[[STOP], [word("d"), STOP]],
        )
        old = sleepy("law", wakes=wakes)
        async with gateway_to(cluster, old) as gateway:
            await settle()
            decoder = Decoder(old, gateway.models, gateway)
            writing = asyncio.create_task(_text(decoder))
            await settle(1)
            await gateway.install(table("law", "weather", epoch=2))
            assert await writing == expected
            if expected == "abd":
                assert cluster.models["meta"].asks[-1].allowed == ("law",)

    in_virtual_time(main())


async def _text(decoder: Decoder) -> str:
    return "".join([item.text async for item in decoder.decode(JOB) if isinstance(item, Delta)])
