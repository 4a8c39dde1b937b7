"""The load of models, summed over their replicas."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import httpx
import pytest

from deployments.connections import Connections
from deployments.load_reports import APP_TIMEOUT_S, LOAD_CACHE_TTL_S, LoadReports
from router.dialects.app import build_app
from router.load_report import ModelLoad
from router.model_port import Model, ModelChunk
from router.table import ModelEntry
from tests.fakes.cluster import REQUEST, Cluster, gateway_to, settle, table
from tests.fakes.models import STOP, FakeGateway, Pause, in_virtual_time, models
from tests.fakes.replicas import FakeBroadcast, replica

BUSY = [replica("b", num_running=3, num_waiting=1, num_tokens=70), replica("a", num_running=1, num_tokens=30)]


async def call(model: Model) -> list[ModelChunk]:
    async with aclosing(model.stream(REQUEST)) as chunks:
        return [chunk async for chunk in chunks]


def look(replicas: FakeBroadcast, *apps: str) -> dict[str, ModelLoad | None]:
    return in_virtual_time(LoadReports(replicas).by_app(apps))


def test_a_model_is_the_sum_of_its_replicas():
    load = look(FakeBroadcast({"chem": BUSY}), "chem")["chem"]
    assert load == ModelLoad(num_running=4, num_queued=1, num_tokens=100, replicas=(BUSY[1], BUSY[0]))


@pytest.mark.parametrize(("num_open", "num_queued"), [(9, 5), (4, 1), (0, 1)])
def test_calls_that_no_engine_runs_count_as_queued(num_open: int, num_queued: int):
    load = look(FakeBroadcast({"chem": BUSY}, calls={"chem": num_open, "law": 50}), "chem")["chem"]
    assert load is not None
    assert load.num_queued == num_queued


def test_a_sleeping_model_has_no_replicas_but_may_have_callers():
    found = look(FakeBroadcast({"chem": [], "law": []}, calls={"law": 2}), "chem", "law")
    assert found == {"chem": ModelLoad(0, 0, 0, ()), "law": ModelLoad(0, 2, 0, ())}


def test_a_model_that_does_not_answer_in_time_is_unknown_and_does_not_delay_others():
    async def main() -> float:
        loads = LoadReports(
            FakeBroadcast({"chem": BUSY, "law": BUSY}, calls={"chem": 9}, silent={"law", "router"})
        )
        clock = asyncio.get_running_loop().time
        began = clock()
        found = await loads.by_app(["chem", "law", "nobody"])
        assert found["law"] is None
        assert found["nobody"] is None
        assert found["chem"] is not None
        assert found["chem"].num_queued == 1  # as far as the engines know
        return clock() - began

    assert in_virtual_time(main()) == pytest.approx(APP_TIMEOUT_S)


def test_concurrent_readers_share_one_reading_and_it_is_cached_briefly():
    async def main() -> None:
        replicas = FakeBroadcast({"chem": BUSY, "law": []})
        loads = LoadReports(replicas)
        await asyncio.gather(*(loads.by_app(["chem"]) for _ in range(20)))
        await settle(0.9 * LOAD_CACHE_TTL_S)
        replicas.of["chem"] = []
        kept = (await loads.by_app(["chem"]))["chem"]
        assert kept is not None
        assert kept.num_running == 4
        assert replicas.asked == ["chem"]
        await settle(0.2 * LOAD_CACHE_TTL_S)
        assert await loads.by_app(["chem"]) == {"chem": ModelLoad(0, 0, 0, ())}
        assert set(await loads.by_app(["law"])) == {"law"}  # the last reading did not include it
        assert replicas.asked == ["chem", "chem", "law"]
        assert replicas.kept == {"law"}

    in_virtual_time(main())


def test_a_cancelled_reader_leaves_the_reading_to_the_next():
    async def main() -> None:
        loads = LoadReports(FakeBroadcast({"chem": BUSY}))
        first = asyncio.create_task(loads.by_app(["chem"]))
        second = asyncio.create_task(loads.by_app(["chem"]))
        await settle(0.1)
        first.cancel()
        found = (await second)["chem"]
        assert found is not None
        assert found.num_tokens == 100

    in_virtual_time(main())


def test_calls_under_way_are_counted_until_they_end():
    async def main() -> None:
        cluster = Cluster(chem=[[Pause()], [Pause(1), STOP]])
        connections = Connections(lambda app: None)
        await connections.connect("chem", cluster.connect)
        calls = [asyncio.create_task(call(connections["chem"])) for _ in range(2)]
        await settle(0.5)
        assert connections.open_calls == {"chem": 2}
        await calls[1]
        assert connections.open_calls == {"chem": 1}
        calls[0].cancel()
        await asyncio.wait(calls)
        assert connections.open_calls == {}

    in_virtual_time(main())


def test_a_gateway_knows_the_load_of_every_model_of_its_table():
    async def main() -> None:
        async with gateway_to(Cluster(), table("chem", "law")) as gateway:
            await settle(1)
            assert not any(gateway.open_calls.values())
            assert set(await gateway.load()) == {"meta", "chem", "law"}

    in_virtual_time(main())


def test_callers_that_wait_for_a_start_are_counted_beside_the_probe():
    async def main() -> None:
        cluster = Cluster()
        cluster.models["chem"].falls_asleep()
        sleeping = table(experts={"chem": ModelEntry(app="chem", scales_to_zero=True)})
        async with gateway_to(cluster, sleeping) as gateway:
            waiting = [asyncio.create_task(gateway.wait_until_ready("chem")) for _ in range(5)]
            await settle(1)
            assert gateway.open_calls["chem"] == 5 + 1
            waiting[0].cancel()
            await settle(1)
            assert gateway.open_calls["chem"] == 4 + 1
            await asyncio.wait(waiting)
            assert not any(gateway.open_calls.values())

    in_virtual_time(main())


async def test_stats_are_served_as_json():
    load = ModelLoad(2, 1, 50, (replica("a", time_s=9.5, num_running=2, num_waiting=1, num_tokens=50),))
    ejected = {"roman": {"b": "too many of its calls fail"}}
    gateway = FakeGateway(models(), loads={"roman": load}, ejected=ejected)
    transport = httpx.ASGITransport(build_app(gateway))
    async with httpx.AsyncClient(transport=transport, base_url="http://router") as client:
        told = (await client.get("/stats")).raise_for_status().json()
    one = {"num_running": 2, "num_waiting": 1, "num_tokens": 50, "cache_use": 0.0}
    cached = {"cache_kept": 0.0, "num_cached_tokens": 0}
    replicas = [{"replica": "a", "time_s": 9.5, **one, "adapters": {}, **cached}]
    roman = {"num_running": 2, "num_queued": 1, "num_tokens": 50, "replicas": replicas}
    models_told = {"meta": None, "roman": roman, "morse": None}
    assert told == {"table_version": 7, "models": models_told, "admission": {}, "ejected": ejected}
