"""Experts that share an application: each has its own way there, and all of them one line."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.load import Loads
from deployments.replicas import ReplicaSet
from router.admission import Admission
from router.decode import Decoder
from router.errors import AdapterBroken, AdapterMissing, Overloaded
from router.job import Delta, Job
from router.load import AdapterLoad, ReplicaLoad
from router.policy import Target
from router.routes import State
from router.table import ModelEntry, RouteTable
from tests.fake_cluster import Cluster, gateway_to, settle, table
from tests.fake_replicas import FakeReplicas
from tests.fake_routes import FakeRoutes
from tests.fakes import JOB, hands_over, in_virtual_time, models, writes

MISSING, BROKEN = AdapterMissing("not yet"), AdapterBroken("no LoRA")


def pool(*experts: str, **changes: Any) -> RouteTable:
    """Experts that are adapters in the application `chem`."""
    entries = {name: ModelEntry(app="chem", adapter=name, **changes) for name in experts}
    return table(experts=entries)


def test_an_expert_is_ready_when_a_replica_has_answered_with_its_adapter():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.without = {("r1", "b"): MISSING}
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle(10)
            assert (gateway.state("a"), gateway.state("b")) == (State.READY, State.MASKED)
            chem.without.clear()
            await settle()
            assert gateway.state("b") is State.READY
            assert {ask.adapter for ask in chem.asks} == {"a", "b"}

    in_virtual_time(main())


def test_a_replica_without_an_adapter_serves_the_others_and_is_asked_again():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle()
            chem.without = {("r1", "b"): MISSING}
            decoder = Decoder(gateway.table, gateway.models, gateway)
            job = Job("r", JOB.prompt, Target("b", routed=False))
            async for _ in decoder.decode(job):
                pass
            assert chem.reached[-2:] == ["r1", "r2"]  # tried elsewhere, and nobody noticed
            assert (gateway.state("a"), gateway.state("b")) == (State.READY, State.READY)
            assert chem.replicas.suspects == frozenset()
            chem.without.clear()
            await settle()
            assert chem.replicas.for_calls_of("b").suspects == frozenset()

    in_virtual_time(main())


def test_an_adapter_that_no_replica_can_load_fails_alone():
    async def main() -> None:
        cluster = Cluster()
        cluster.models["chem"].without = {("r1", "b"): BROKEN}
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle(10)
            assert (gateway.state("a"), gateway.state("b")) == (State.READY, State.FAILED)
            cluster.models["chem"].without.clear()
            await settle()
            assert gateway.state("b") is State.READY

    in_virtual_time(main())


def test_the_start_of_a_sleeping_pool_fails_at_once_for_one_whose_adapter_is_broken():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.falls_asleep()
        chem.without = {("r1", "b"): BROKEN}
        async with gateway_to(cluster, pool("a", "b", wakes=True)) as gateway:
            assert (gateway.state("a"), gateway.state("b")) == (State.ASLEEP, State.ASLEEP)
            starting = asyncio.gather(gateway.awake("a"), gateway.awake("b"), return_exceptions=True)
            ready, failed = await starting
            assert (ready, type(failed).__name__) == (None, "WakeFailed")
            assert (gateway.state("a"), gateway.state("b")) == (State.READY, State.FAILED)

    in_virtual_time(main())


def test_a_table_that_gives_an_expert_another_adapter_asks_it_anew():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle()
            num_asks = cluster.num_calls("chem")
            await gateway.install(pool("a"))
            assert gateway.state("b") is State.MASKED
            await gateway.install(pool("a", "b"))
            assert (gateway.state("a"), gateway.state("b")) == (State.READY, State.MASKED)
            await settle()
            assert (gateway.state("b"), cluster.num_calls("chem")) == (State.READY, num_asks + 1)
            assert cluster.connects.count("chem") == 1

    in_virtual_time(main())


def test_the_experts_of_a_pool_have_its_slots_together():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, pool("a", "b", max_streams=4)) as gateway:
            await settle()
            assert (gateway.num_slots("chem"), gateway.max_slots("chem")) == (1, 4 + 1)
            chem = cluster.models["chem"]
            chem.hung, chem.reached = {"r1"}, []  # it takes none of its calls

            async def answer(number: int) -> None:
                job = Job(str(number), JOB.prompt, Target("ab"[number % 2], routed=False))
                decoder = Decoder(gateway.table, gateway.models, gateway, admission=gateway.admission)
                async for _ in decoder.decode(job):
                    pass

            answers = asyncio.gather(*map(answer, range(10)), return_exceptions=True)
            await settle(1)
            assert len(chem.reached) == 1
            assert gateway.admission.load() == {
                "chem": {"num_running": 1, "num_waiting": 9, "mean_hold_s": None}
            }
            answers.cancel()
            with suppress(asyncio.CancelledError):
                await answers

    in_virtual_time(main())


def test_who_waits_for_one_expert_of_a_pool_waits_behind_those_of_the_others():
    async def main() -> None:
        admission = Admission(lambda line: {"pool": 1}[line])
        order: list[str] = []

        async def use(model: str, key: str) -> None:
            limits: dict[str, Any] = {"begun": False, "queue_s": 60, "max_waiting": 10}
            async with admission.slot(model, key, line="pool", **limits):
                order.append(model + key)
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for model, key in (("a", "1"), ("a", "1"), ("b", "1"), ("b", "2")):
                group.create_task(use(model, key))
        assert order == ["a1", "a1", "b2", "b1"]  # the keys take turns, whichever expert they ask

    in_virtual_time(main())


def test_a_refusal_names_the_expert_and_not_the_line():
    async def main() -> None:
        admission = Admission(lambda _: 1)
        slot: dict[str, Any] = {"line": "pool-base", "begun": False, "max_waiting": 10}
        async with admission.slot("a", "", queue_s=60, **slot):
            with pytest.raises(Overloaded, match="^b is busy"):
                async with admission.slot("b", "", queue_s=1, **slot):
                    raise AssertionError("there is no slot")

    in_virtual_time(main())


def test_every_call_says_which_adapter_is_to_write():
    async def main() -> str:
        played = models(meta=hands_over("a"), chem=writes("IX"))
        decoder = Decoder(pool("a", "b"), played, FakeRoutes(ready=("meta", "a", "b")))
        text = "".join([item.text async for item in decoder.decode(JOB) if isinstance(item, Delta)])
        assert [ask.adapter for ask in played["meta"].asks] == [None]
        assert [ask.adapter for ask in played["chem"].asks] == ["a"]
        return text

    assert in_virtual_time(main()) == "IX"


def test_each_expert_of_a_pool_has_its_own_part_of_the_load():
    async def main() -> None:
        adapters = {"a": AdapterLoad("1", "1", "", 2, 30), "b": AdapterLoad("1", None, "broken", 0, 0)}
        replicas = FakeReplicas(
            of={"chem": [ReplicaLoad("r", 5.0, 2, 0, 30, 0.5, adapters)], "meta": []}, calls={"chem#a": 5}
        )
        found = await Loads(replicas).of_models({"meta": ModelEntry(app="meta"), **pool("a", "b").experts})
        a, b = found["a"], found["b"]
        assert a is not None
        assert b is not None
        assert (a.num_running, a.num_queued, a.num_tokens) == (2, 3, 30)
        assert [one.adapters for one in a.replicas] == [{"a": adapters["a"]}]
        assert (b.num_running, b.num_queued) == (0, 0)
        assert b.replicas[0].adapters["b"].error == "broken"

    in_virtual_time(main())


REPLICAS = st.sampled_from("rst")
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("runs"), st.frozensets(REPLICAS)),
        st.tuples(st.sampled_from(["suspect", "lacks", "broken", "answered", "other"]), REPLICAS),
    ),
    max_size=30,
)


@given(EVENTS)
def test_what_lacks_one_adapter_is_avoided_for_that_one_alone(events: list[tuple[str, Any]]):
    replicas = ReplicaSet("chem")
    known, other = replicas.for_calls_of("a"), replicas.for_calls_of("b")
    assert replicas.for_calls_of("a") is known
    proven = False
    for event, what in events:
        match event:
            case "runs":
                replicas.now_running(what)
            case "suspect":
                replicas.suspect(what, "test")
            case "lacks" | "broken":
                before = other.suspects
                known.lacks(what, is_broken=event == "broken")  # type: ignore[union-attr]
                assert other.suspects == before
            case "answered":
                known.answered(what)
                proven = proven or what in known.running
            case "other":
                other.answered(what)
        proven = proven and bool(known.healthy)
        assert replicas.suspects <= known.suspects <= known.running
        assert replicas.suspects_for("a") == known.suspects
        assert known.healthy == known.running - known.suspects
        assert known.is_proven is proven
        assert not (known.is_broken and known.healthy)
