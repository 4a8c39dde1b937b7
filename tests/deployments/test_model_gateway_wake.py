"""How a gateway starts sleeping models, notices that one woke, and keeps routes when the table changes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deployments.model_gateway import REFRESH_PERIOD_S
from router.availability import ModelState
from router.decoding.decode import Decoder
from router.errors import InvalidRequest, ModelFailed, ModelUnavailable, RouterError, WakeFailed
from router.table import Deadlines, ModelEntry, RouteTable
from tests.fakes.cluster import Cluster, FakeApp, call, gateway_to, opened, probed, settle, table
from tests.fakes.models import GONE, STOP, Item, Pause, in_virtual_time, to, word
from tests.support.answering import text_of

ASLEEP, WAKING, READY, MASKED = ModelState.ASLEEP, ModelState.WAKING, ModelState.READY, ModelState.MASKED


def sleepy(*others: str, scales_to_zero: bool = True, **changes: Any) -> RouteTable:
    entries = {name: ModelEntry(app=name) for name in others}
    return table(
        experts={**entries, "chem": ModelEntry(app="chem", scales_to_zero=scales_to_zero)}, **changes
    )


def asleep(**scripts: Any) -> tuple[Cluster, FakeApp]:
    cluster = Cluster(**scripts)
    cluster.models["chem"].falls_asleep()
    return cluster, cluster.models["chem"]


def test_a_sleeping_model_is_connected_but_not_probed_until_a_caller_needs_it():
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
            assert (gateway.state("chem"), probed(chem)) == (READY, [None])

    in_virtual_time(main())


def test_all_callers_share_one_start_and_a_disconnect_does_not_cancel_it():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            first, *others = [asyncio.create_task(gateway.wait_until_ready("chem")) for _ in range(8)]
            await settle(30)
            first.cancel()
            late = asyncio.create_task(gateway.wait_until_ready("chem"))
            await asyncio.gather(*others, late)
            await gateway.wait_until_ready("chem")
            assert (chem.num_starts, probed(chem), first.cancelled()) == (1, [None], True)

    in_virtual_time(main())


def test_a_start_requested_before_the_application_exists_is_not_forgotten():
    async def main() -> None:
        cluster, chem = asleep()
        cluster.failures["chem"] = [ModelUnavailable("no such application")] * 3
        async with gateway_to(cluster, sleepy()) as gateway:
            await gateway.wait_until_ready("chem")
            assert (gateway.state("chem"), chem.num_starts) == (READY, 1)

    in_virtual_time(main())


@pytest.mark.parametrize(
    ("start_s", "script", "after_s"),
    [(200, [], 100), (0, [[ModelFailed("broken")]], 0), (0, [[GONE]] * 99, 98)],
)
def test_a_start_that_fails_fails_for_all_callers_and_the_next_one_retries(
    start_s: float, script: list[list[Item]], after_s: float
):
    async def main() -> None:
        cluster, chem = asleep(chem=script)
        chem.start_s = start_s
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(wake_s=100))) as gateway:
            clock = asyncio.get_running_loop().time
            began = clock()
            failures = await asyncio.gather(
                *[gateway.wait_until_ready("chem") for _ in range(2)], return_exceptions=True
            )
            assert [type(failure) for failure in failures] == [WakeFailed] * 2
            assert after_s <= clock() - began <= 100
            assert gateway.state("chem") in (ASLEEP, MASKED)
            chem.script, chem.start_s = lambda ask: [STOP], 1
            await gateway.wait_until_ready("chem")
            assert gateway.state("chem") is READY

    in_virtual_time(main())


@pytest.mark.parametrize("error", [ModelFailed("broken"), InvalidRequest("refuses 'ping'")])
def test_a_model_that_fails_its_probe_is_left_alone_so_that_it_can_scale_to_zero(error: RouterError):
    """It was probed every second, which Serve counts as traffic."""

    async def main() -> None:
        cluster = Cluster(chem=[[error]] * 2)
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle(600)
            assert (gateway.state("chem"), probed(chem)) == (MASKED, [None])
            chem.falls_asleep()
            assert gateway.state("chem") is ASLEEP

    in_virtual_time(main())


@pytest.mark.parametrize("change", ["caller", "replica", "call"])
def test_a_model_that_failed_its_probe_is_probed_again_when_something_changes(change: str):
    async def main() -> None:
        cluster = Cluster(chem=[[ModelFailed("broken")], [STOP], [STOP]])
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle(600)
            assert gateway.state("chem") is MASKED
            match change:
                case "caller":
                    await gateway.wait_until_ready("chem")
                case "replica":
                    chem.comes_up("r1", "r2")
                case "call":
                    await call(gateway, "chem")
            await settle(1.1 * REFRESH_PERIOD_S)
            assert gateway.state("chem") is READY

    in_virtual_time(main())


def test_an_ejected_replica_of_a_model_without_callers_is_left_alone_after_a_while():
    """Its probes, too, kept the model from scaling to zero."""

    async def main() -> None:
        cluster = Cluster(chem=[[STOP], *[[GONE]] * 1000])
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(wake_s=100))) as gateway:
            await settle()
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            await settle(150)
            num_calls = len(chem.asks)
            await settle(600)
            assert len(chem.asks) == num_calls
            with pytest.raises(WakeFailed):
                await gateway.wait_until_ready("chem")  # a caller: it is probed again
            assert len(chem.asks) > num_calls + 10

    in_virtual_time(main())


def test_an_ejected_replica_of_a_model_that_is_called_is_probed_for_as_long_as_it_takes():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(wake_s=100))) as gateway:
            await settle()
            chem.broken = {"r1"}
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            await settle(600)
            assert await call(gateway, "chem") == [STOP]
            chem.broken, chem.reached = set(), []
            await settle(2)
            assert chem.reached == ["r1"]
            assert chem.replicas.ejected == frozenset()

    in_virtual_time(main())


def test_a_model_that_another_router_woke_is_noticed_and_probed_once():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            chem.comes_up()
            assert gateway.state("chem") is WAKING
            await settle(1.1 * REFRESH_PERIOD_S)
            assert (gateway.state("chem"), probed(chem)) == (READY, [None])

    in_virtual_time(main())


def test_a_model_that_fell_asleep_is_probed_again_when_it_is_back():
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


def test_a_model_that_falls_asleep_after_a_failure_is_not_started_by_a_probe():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [GONE], [GONE]])
        chem = cluster.models["chem"]
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            assert gateway.state("chem") is ModelState.UNAVAILABLE
            await settle(0.05)
            chem.falls_asleep()
            await settle()
            assert (gateway.state("chem"), len(chem.asks), chem.num_starts) == (ASLEEP, 3, 0)

    in_virtual_time(main())


@pytest.mark.parametrize("how", ["close", "install"])
def test_callers_that_wait_get_an_error_when_the_route_is_removed(how: str):
    async def main() -> None:
        cluster, _ = asleep()
        async with gateway_to(cluster, sleepy("law")) as gateway:
            waiting = asyncio.create_task(gateway.wait_until_ready("chem"))
            await settle(1)
            await (gateway.close() if how == "close" else gateway.install(table("law", table_version=2)))
            with pytest.raises(ModelUnavailable):
                await waiting
            with pytest.raises(ModelUnavailable):
                await gateway.wait_until_ready("chem")
            assert gateway.state("chem") is MASKED

    in_virtual_time(main())


def test_changing_scale_to_zero_closes_no_open_route():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, sleepy(scales_to_zero=False)) as gateway:
            await settle()
            for table_version, scales_to_zero in enumerate([True, False, True], 2):
                await gateway.install(sleepy(scales_to_zero=scales_to_zero, table_version=table_version))
                assert opened(gateway) == {"meta", "chem"}
                await settle()
            assert (cluster.num_calls("chem"), cluster.connects.count("chem")) == (1, 1)

    in_virtual_time(main())


def test_a_sleeping_model_that_no_longer_scales_to_zero_is_masked_until_it_answers():
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy()) as gateway:
            await settle()
            await gateway.install(sleepy(scales_to_zero=False, table_version=2))
            assert gateway.state("chem") is MASKED
            await settle(61)
            assert (gateway.state("chem"), probed(chem)) == (READY, [None])

    in_virtual_time(main())


@pytest.mark.parametrize("scales_to_zero", [True, False])
def test_a_new_table_does_not_interrupt_a_start(scales_to_zero: bool):
    async def main() -> None:
        cluster, chem = asleep()
        async with gateway_to(cluster, sleepy(deadlines=Deadlines(first_token_s=90))) as gateway:
            waiting = asyncio.create_task(gateway.wait_until_ready("chem"))
            await settle(30)
            await gateway.install(sleepy("law", scales_to_zero=scales_to_zero, table_version=2))
            await waiting
            assert (gateway.state("chem"), chem.num_starts, probed(chem)) == (READY, 1, [None])

    in_virtual_time(main())


@pytest.mark.parametrize("scales_to_zero", [False, True])
@pytest.mark.parametrize(
    ("rest", "expected"), [([word("c"), STOP], "abc"), ([GONE], "abd"), ([Pause()], "abd"), ([], "abd")]
)
def test_a_removed_expert_finishes_its_answer_or_another_takes_over(
    scales_to_zero: bool, rest: list[Item], expected: str
):
    async def main() -> None:
        cluster = Cluster(
            meta=[[STOP], [word("a"), to("chem")], [to("law")]],
            chem=[[STOP], [word("b"), Pause(5), *rest]],
            law=[[STOP], [word("d"), STOP]],
        )
        old = sleepy("law", scales_to_zero=scales_to_zero)
        async with gateway_to(cluster, old) as gateway:
            await settle()
            decoder = Decoder(old, gateway.models, gateway)
            writing = asyncio.create_task(_text(decoder))
            await settle(1)
            await gateway.install(table("law", "weather", table_version=2))
            assert await writing == expected
            if expected == "abd":
                assert cluster.models["meta"].asks[-1].allowed == ("law",)

    in_virtual_time(main())


async def _text(decoder: Decoder) -> str:
    return await text_of(decoder)
