"""Which routes a gateway holds open: a route opens by an answer and closes by a failed call."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Literal

import pytest
from httpx import ASGITransport, AsyncClient

from deployments.model_gateway import ModelGateway
from deployments.router import Router
from router.availability import ModelState
from router.dialects.app import build_app
from router.errors import ModelFailed, ModelOverloaded, ModelUnavailable, RouterError, TableStale
from router.model_port import Finish, ModelChunk
from router.prompt import Message, Prompt
from router.table import Deadlines, ModelEntry
from tests.fakes.cluster import Cluster, call, gateway_to, opened, probed, settle, table
from tests.fakes.models import GENERATION, GONE, STOP, Item, Pause, in_virtual_time
from tests.fakes.replicas import FakeBroadcast, replica

OVERLOADED = ModelOverloaded("full")
PAUSED_THEN_GONE: list[Item] = [Pause(1), GONE]


def test_routes_open_when_their_models_have_answered_a_probe():
    async def main() -> None:
        cluster = Cluster(law=[[GONE], [ModelFailed("broken")], [ModelChunk(finish=Finish.CANCELLED)], []])
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            assert opened(gateway) == set()
            await settle(0.05)
            assert opened(gateway) == {"meta", "chem"}
            await settle()
            assert "law" in opened(gateway)
            assert (cluster.num_calls("law"), cluster.connects.count("law")) == (5, 1)
            assert probed(cluster.models["law"]) == [None, *["r1"] * 4]

    in_virtual_time(main())


@pytest.mark.parametrize(
    ("on_unavailable", "state"),
    [("wait", ModelState.UNAVAILABLE), ("meta", ModelState.MASKED)],
    ids=["wait", "meta"],
)
def test_a_router_that_starts_while_an_expert_is_unavailable_follows_on_unavailable(
    on_unavailable: Literal["wait", "meta"], state: ModelState
):
    """It was regarded as new, and its answers went elsewhere. An expert that is added later is new."""

    def entry(name: str) -> ModelEntry:
        return ModelEntry(app=name, on_unavailable=on_unavailable)

    async def main() -> None:
        cluster = Cluster(chem=[[Pause()]], law=[[Pause()]])
        first = table("chem").model_copy(update={"experts": {"chem": entry("chem")}})
        async with gateway_to(cluster, first) as gateway:
            assert gateway.state("chem") is state
            await gateway.install(
                first.model_copy(update={"experts": {n: entry(n) for n in ("chem", "law")}})
            )
            assert (gateway.state("chem"), gateway.state("law")) == (state, ModelState.MASKED)

    in_virtual_time(main())


def test_experts_that_share_an_application_share_its_handle_and_its_first_answer():
    """Regression: a thousand experts created a thousand handles and sent a thousand probes."""

    async def main() -> None:
        cluster = Cluster(chem=[[Pause(1), STOP]])
        entries = {name: ModelEntry(app="chem") for name in ("acids", "bases", "salts")}
        async with gateway_to(cluster, table(experts=entries)) as gateway:
            await settle(0.5)
            assert opened(gateway) == {"meta"}
            await settle()
            assert opened(gateway) == {"meta", *entries}
            assert (cluster.connects.count("chem"), cluster.num_calls("chem")) == (1, 1)

    in_virtual_time(main())


def test_only_a_failed_connect_is_repeated():
    async def main() -> None:
        cluster = Cluster()
        cluster.failures["chem"] = [ModelUnavailable("no such application")] * 3
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            assert "chem" in opened(gateway)
            assert (cluster.connects.count("chem"), cluster.num_calls("chem")) == (4, 1)

    in_virtual_time(main())


def test_an_unexpected_error_is_logged_once_and_the_route_opens_later(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        cluster = Cluster()
        cluster.failures["chem"] = [RuntimeError("surprise"), RuntimeError("surprise"), KeyError("again")]
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            assert opened(gateway) == {"meta", "chem"}
            assert cluster.connects.count("chem") == 4

    in_virtual_time(main())
    [told] = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert told.exc_info


def test_a_probe_without_an_answer_times_out_and_is_repeated():
    async def main() -> None:
        cluster = Cluster(chem=[[Pause()], [ModelChunk("h", 1), Pause()]])
        deadlines = Deadlines(first_token_s=3)
        async with gateway_to(cluster, table("chem", deadlines=deadlines)) as gateway:
            await settle(2.9)
            assert cluster.num_calls("chem") == 1
            await settle()
            assert "chem" in opened(gateway)
            assert cluster.num_calls("chem") == 3

    in_virtual_time(main())


def test_a_call_that_finds_a_model_unavailable_closes_its_route_until_it_answers():
    async def main() -> None:
        cluster = Cluster(
            chem=[[STOP], [GONE], [GONE], [GONE]], meta=[[STOP], [ModelChunk("h", 1), GONE], [GONE]]
        )
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            await settle()
            for app in ("chem", "meta"):
                with pytest.raises(ModelUnavailable):
                    await call(gateway, app)
            assert opened(gateway) == {"law"}
            assert await call(gateway, "law") == [STOP]
            await settle()
            assert opened(gateway) == {"meta", "chem", "law"}
            assert cluster.num_calls("chem") == 5  # probe, call, two probes that fail, one that does not
            assert sorted(cluster.connects) == ["chem", "law", "meta"]

    in_virtual_time(main())


def test_calls_that_fail_together_start_one_opening():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], *[PAUSED_THEN_GONE] * 5])
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            results = await asyncio.gather(*[call(gateway, "chem") for _ in range(5)], return_exceptions=True)
            assert all(isinstance(result, ModelUnavailable) for result in results)
            await settle()
            assert "chem" in opened(gateway)
            assert cluster.num_calls("chem") == 1 + 5 + 1

    in_virtual_time(main())


@pytest.mark.parametrize("error", [OVERLOADED, ModelFailed("broken")], ids=["overloaded", "failed"])
def test_a_model_that_is_busy_or_broken_keeps_its_route(error: RouterError):
    async def main() -> None:
        async with gateway_to(Cluster(chem=[[STOP], [error]]), table("chem")) as gateway:
            await settle()
            with pytest.raises(type(error)):
                await call(gateway, "chem")
            assert "chem" in opened(gateway)

    in_virtual_time(main())


def test_experts_of_one_application_close_and_open_together():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [GONE], [GONE], [GONE], [GONE]])
        shared = table(experts={"chem": ModelEntry(app="chem"), "law": ModelEntry(app="chem")})
        async with gateway_to(cluster, shared) as gateway:
            await settle()
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            assert opened(gateway) == {"meta"}
            await settle()
            assert opened(gateway) == {"meta", "chem", "law"}

    in_virtual_time(main())


def test_a_new_table_keeps_the_routes_it_names_and_releases_the_others():
    async def main() -> None:
        cluster = Cluster(weather=[[GONE]])
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            await settle()
            moved = {"chem": ModelEntry(app="chem"), "law": ModelEntry(app="weather")}
            await gateway.install(table(experts=moved, table_version=2))
            assert opened(gateway) == {"meta", "chem"}
            await settle()
            assert opened(gateway) == {"meta", "chem", "law"}
            assert sorted(gateway.models) == ["chem", "meta", "weather"]
            assert (cluster.num_calls("meta"), cluster.num_calls("chem")) == (1, 1)

    in_virtual_time(main())


def test_a_model_that_becomes_unavailable_during_an_install_gets_one_opening():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [GONE]], law=[[Pause()]])
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            await settle(1)
            install = gateway.install(table("chem", table_version=2))  # waits until law's opening has ended
            await asyncio.gather(install, call(gateway, "chem"), return_exceptions=True)
            await settle()
            assert opened(gateway) == {"meta", "chem"}
            assert cluster.num_calls("chem") == 3

    in_virtual_time(main())


def test_an_install_that_is_cancelled_stays_cancelled():
    async def main() -> None:
        cluster = Cluster(chem=[[Pause()]])
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle(1)
            install = asyncio.create_task(gateway.install(table("law", table_version=2)))
            await asyncio.sleep(0)
            install.cancel()
            with pytest.raises(asyncio.CancelledError):
                await install
            await settle()
            assert (gateway.table.table_version, opened(gateway)) == (2, {"meta", "law"})

    in_virtual_time(main())


def test_a_call_that_fails_after_the_end_starts_nothing():
    async def main() -> None:
        cluster = Cluster(chem=[[STOP], [Pause(1), GONE]])
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            late = asyncio.create_task(call(gateway, "chem"))
            await asyncio.sleep(0)
            await gateway.close()
            with pytest.raises(ModelUnavailable):
                await late
            await settle()
            assert cluster.num_calls("chem") == 2

    in_virtual_time(main())


async def test_the_vocabulary_of_a_model_is_that_of_its_replicas():
    cluster = Cluster()
    async with gateway_to(cluster, table("chem")) as gateway:
        assert [gateway.vocabulary(name) for name in ("chem", "unknown")] == [None, None]
        await gateway.wait_until_ready("chem")
        cluster.models["chem"].replicas.set_running(("r1",), ("v",))
        assert gateway.vocabulary("chem") == "v"


async def test_a_router_that_ends_leaves_no_task_behind(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(meta=[[Pause()]])
    monkeypatch.setattr("deployments.router.connect", cluster.connect)
    monkeypatch.setattr("deployments.router.STARTUP_TIMEOUT_S", 0.01)
    router = Router(max_body_bytes=1024)
    before = asyncio.all_tasks()
    await router.reconfigure(table("chem").model_dump(mode="json"))
    assert asyncio.all_tasks() > before
    await router.close()
    assert asyncio.all_tasks() == before


def test_a_router_that_lost_the_controller_refuses_requests_until_it_is_back():
    """Otherwise one that is cut off would take revoked API keys, and call removed experts, for ever."""

    async def main() -> None:
        async with gateway_to(Cluster(), table(max_table_age_s=600.0)) as gateway:
            transport = ASGITransport(build_app(gateway))
            async with AsyncClient(transport=transport, base_url="http://router") as http:

                async def codes() -> set[str | None]:
                    replies = [(await http.get(path)).json() for path in ("/healthz", "/v1/models")]
                    return {reply.get("error", {}).get("code") for reply in replies}

                await settle(590)
                gateway.confirm_table()
                await settle(590)
                assert await codes() == {None}
                await settle(20)
                assert await codes() == {"table_stale"}
                gateway.confirm_table()
                assert await codes() == {None}

    in_virtual_time(main())


def test_the_controllers_health_check_is_the_sign_that_the_table_is_the_newest(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("deployments.router.connect", Cluster().connect)

    async def main() -> None:
        router = Router(max_body_bytes=1024)
        await router._gateway.install(table(max_table_age_s=600.0))
        await settle(610)
        with pytest.raises(TableStale):
            _ = router._gateway.table
        await router.check_health()
        assert router._gateway.table.name == "g"
        await router._gateway.close()

    in_virtual_time(main())


def test_all_routers_learn_what_one_puts_into_quarantine():
    async def main() -> None:
        replicas = FakeBroadcast(of={"router": [replica()]})
        gateway = ModelGateway(Cluster().connect, 1024, replicas)
        gateway.quarantine.add("meta", Prompt(text="poison"))
        await settle()
        [digest] = replicas.quarantined
        other = ModelGateway(Cluster().connect, 1024, FakeBroadcast())
        other.quarantine.learn(digest)
        assert other.quarantine.blocked(["meta", "chem"], Prompt(text="poison")) == {"meta"}
        await gateway.close()

    in_virtual_time(main())


def test_all_routers_learn_who_wrote_a_turn_soon_after():
    async def main() -> None:
        replicas = FakeBroadcast(of={"router": [replica()]})
        gateway = ModelGateway(Cluster().connect, 1024, replicas)
        await gateway.install(table())
        question = (Message("user", "q"),)
        asked = replace(GENERATION, prompt=Prompt(messages=question))
        gateway.recorder.authors.wrote(asked, "", "chem", "a")
        await settle()
        other = ModelGateway(Cluster().connect, 1024, FakeBroadcast())
        other.recorder.authors.learn(replicas.turns)
        turns = (*question, Message("assistant", "a"), Message("user", "and?"))
        found = other.recorder.authors.find(replace(asked, prompt=Prompt(messages=turns)), "")
        assert found == "chem"
        await gateway.close()

    in_virtual_time(main())


def test_a_failed_broadcast_leaves_the_prompt_in_the_own_quarantine(caplog: pytest.LogCaptureFixture):
    async def main() -> None:
        gateway = ModelGateway(Cluster().connect, 1024, FakeBroadcast())
        gateway.quarantine.add("meta", Prompt(text="poison"))
        await settle()
        await gateway.close()

    in_virtual_time(main())
    assert "a quarantined prompt could not be sent to the other routers" in caplog.text


@pytest.mark.parametrize(("takes_s", "is_open"), [(3, True), (60, False)])
def test_a_router_that_starts_waits_for_the_first_probes(takes_s: float, is_open: bool):
    """It passed over experts that had not been probed yet."""

    async def main() -> None:
        cluster = Cluster(meta=[[STOP]], chem=[[Pause(takes_s), STOP]])
        gateway = ModelGateway(cluster.connect, 1024, FakeBroadcast())
        await gateway.install(table("chem"))
        await gateway.wait_until_settled(10)
        assert (gateway.state("chem") is ModelState.READY) is is_open
        await gateway.close()

    in_virtual_time(main())
