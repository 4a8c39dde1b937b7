"""Experts that share an application: each has its own route, and all of them share one queue."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import cycle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.load_reports import LoadReports
from deployments.replicas.probe_claims import MAX_CLAIMS
from deployments.replicas.replica_set import ReplicaSet
from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.availability import ModelState
from router.decoding.decode import Decoder
from router.decoding.generation import GenerationRequest
from router.decoding.policy import Target
from router.errors import AdapterBroken, AdapterMissing, Overloaded
from router.load_report import AdapterLoad, ReplicaLoad
from router.table import Deadlines, ModelEntry, RouteTable
from tests.fakes.availability import FakeRoutes
from tests.fakes.cluster import Cluster, gateway_to, settle, table
from tests.fakes.models import GENERATION, hands_over, in_virtual_time, models, writes
from tests.fakes.replicas import FakeBroadcast
from tests.support.answering import text_of

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
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.MASKED)
            chem.without.clear()
            await settle()
            assert gateway.state("b") is ModelState.READY
            assert {ask.adapter for ask in chem.asks} == {"a", "b"}

    in_virtual_time(main())


def test_a_replica_without_an_adapter_serves_the_others_and_is_probed():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle()
            chem.without = {("r1", "b"): MISSING}
            decoder = Decoder(gateway.table, gateway.models, gateway)
            generation = GenerationRequest("r", GENERATION.prompt, Target("b", routed=False))
            async for _ in decoder.decode(generation):
                pass
            assert chem.reached[-2:] == ["r1", "r2"]  # retried on the other replica
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.READY)
            assert chem.replicas.ejected == frozenset()
            chem.without.clear()
            await settle()
            assert chem.replicas.for_adapter("b").ejected == frozenset()

    in_virtual_time(main())


def test_an_adapter_that_no_replica_can_load_fails_alone():
    async def main() -> None:
        cluster = Cluster()
        cluster.models["chem"].without = {("r1", "b"): BROKEN}
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle(10)
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.FAILED)
            cluster.models["chem"].without.clear()
            await settle()
            assert gateway.state("b") is ModelState.READY

    in_virtual_time(main())


def test_probes_of_two_adapters_at_once_are_told_apart():
    """Both had the id "probe", so the failure of one was booked on the replica that had the other."""

    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        order = cycle(["r1", "r2"])
        chem.choose = lambda _: next(order)
        chem.hung = {"r1"}
        one_deadline = pool("a", "b").model_copy(update={"deadlines": Deadlines(first_token_s=3)})
        async with gateway_to(cluster, one_deadline):
            await settle(3.5)
            assert chem.reached[:2] == ["r1", "r2"]
            assert chem.replicas.ejected == {"r1"}
            chem.hung.clear()

    in_virtual_time(main())


def test_results_of_two_probes_at_once_count_for_their_replicas():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        chem.without = {("r1", "a"): BROKEN}
        order = cycle(["r1", "r2"])
        chem.choose = lambda _: next(order)
        async with gateway_to(cluster, pool("a", "b")):
            await settle(0.05)
            assert chem.replicas.for_adapter("a").ejected == {"r1"}
            assert chem.replicas.for_adapter("b").ejected == frozenset()

    in_virtual_time(main())


def test_a_pool_with_a_broken_adapter_can_scale_to_zero():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.without = {("r1", "b"): BROKEN}
        pool_table = pool("a", "b", scales_to_zero=True).model_copy(
            update={"deadlines": Deadlines(wake_s=100)}
        )
        async with gateway_to(cluster, pool_table) as gateway:
            await settle(150)
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.FAILED)
            chem.reached.clear()
            await settle(600)
            assert chem.reached == []

    in_virtual_time(main())


def test_the_start_of_a_sleeping_pool_fails_at_once_for_a_broken_adapter():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.falls_asleep()
        chem.without = {("r1", "b"): BROKEN}
        async with gateway_to(cluster, pool("a", "b", scales_to_zero=True)) as gateway:
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.ASLEEP, ModelState.ASLEEP)
            starting = asyncio.gather(
                gateway.wait_until_ready("a"), gateway.wait_until_ready("b"), return_exceptions=True
            )
            ready, failed = await starting
            assert (ready, type(failed).__name__) == (None, "WakeFailed")
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.FAILED)

    in_virtual_time(main())


def test_an_expert_that_is_removed_and_added_again_is_probed_again():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, pool("a", "b")) as gateway:
            await settle()
            num_asks = cluster.num_calls("chem")
            await gateway.install(pool("a"))
            assert gateway.state("b") is ModelState.MASKED
            await gateway.install(pool("a", "b"))
            assert (gateway.state("a"), gateway.state("b")) == (ModelState.READY, ModelState.MASKED)
            await settle()
            assert (gateway.state("b"), cluster.num_calls("chem")) == (ModelState.READY, num_asks + 1)
            assert cluster.connects.count("chem") == 1

    in_virtual_time(main())


def test_the_experts_of_a_pool_have_its_slots_together():
    async def main() -> None:
        cluster = Cluster()
        async with gateway_to(cluster, pool("a", "b", max_streams=4)) as gateway:
            await settle()
            assert (gateway.num_slots("chem"), gateway.max_slots("chem")) == (1, 4 + 1)
            chem = cluster.models["chem"]
            chem.hung, chem.reached = {"r1"}, []  # it accepts no calls

            async def answer(number: int) -> None:
                generation = GenerationRequest(
                    str(number), GENERATION.prompt, Target("ab"[number % 2], routed=False)
                )
                decoder = Decoder(gateway.table, gateway.models, gateway, admission=gateway.admission)
                async for _ in decoder.decode(generation):
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


def test_the_experts_of_a_pool_share_one_fair_queue():
    async def main() -> None:
        admission = Admission(lambda app: {"pool": 1}[app])
        order: list[str] = []

        async def use(model: str, key: str) -> None:
            context = AdmissionContext(queue_s=60, max_waiting=10, key=key)
            async with admission.slot(model, "pool", context, has_output=False, left_s=60):
                order.append(model + key)
                await asyncio.sleep(1)

        async with asyncio.TaskGroup() as group:
            for model, key in (("a", "1"), ("a", "1"), ("b", "1"), ("b", "2")):
                group.create_task(use(model, key))
        assert order == ["a1", "a1", "b2", "b1"]  # the keys alternate, whichever expert they call

    in_virtual_time(main())


def test_a_refusal_names_the_expert_and_not_the_pool():
    async def main() -> None:
        admission = Admission(lambda _: 1)
        patient, impatient = (AdmissionContext(queue_s=queue_s, max_waiting=10) for queue_s in (60, 1))
        slot: dict[str, Any] = {"has_output": False, "left_s": 60}
        async with admission.slot("a", "pool-base", patient, **slot):
            with pytest.raises(Overloaded, match="^b is busy"):
                async with admission.slot("b", "pool-base", impatient, **slot):
                    raise AssertionError("there is no slot")

    in_virtual_time(main())


def test_every_call_names_its_adapter():
    async def main() -> str:
        played = models(meta=hands_over("a"), chem=writes("IX"))
        decoder = Decoder(pool("a", "b"), played, FakeRoutes(ready=("meta", "a", "b")))
        text = await text_of(decoder)
        assert [ask.adapter for ask in played["meta"].asks] == [None]
        assert [ask.adapter for ask in played["chem"].asks] == ["a"]
        return text

    assert in_virtual_time(main()) == "IX"


def test_each_expert_of_a_pool_has_its_own_share_of_the_load():
    async def main() -> None:
        adapters = {"a": AdapterLoad("1", "1", "", 2, 30), "b": AdapterLoad("1", None, "broken", 0, 0)}
        replicas = FakeBroadcast(
            of={"chem": [ReplicaLoad("r", 5.0, 2, 0, 30, 0.5, adapters)], "meta": []}, calls={"chem#a": 5}
        )
        found = await LoadReports(replicas).by_model(
            {"meta": ModelEntry(app="meta"), **pool("a", "b").experts}
        )
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
def test_a_replica_that_lacks_an_adapter_is_avoided_for_that_adapter_alone(events: list[tuple[str, Any]]):
    replicas = ReplicaSet("chem")
    known, other = replicas.for_adapter("a"), replicas.for_adapter("b")
    assert replicas.for_adapter("a") is known
    proven = False
    for event, what in events:
        match event:
            case "runs":
                replicas.set_running(what)
            case "suspect":
                replicas.eject(what, "test")
            case "lacks" | "broken":
                before = other.ejected
                known.mark_missing(what, is_broken=event == "broken")  # type: ignore[union-attr]
                assert other.ejected == before
            case "answered":
                known.answered(what)
                proven = proven or what in known.running
            case "other":
                other.answered(what)
        proven = proven and bool(known.healthy)
        assert replicas.ejected <= known.ejected <= known.running
        assert replicas.ejected_for("a") == known.ejected
        assert known.healthy == known.running - known.ejected
        assert known.is_verified is proven
        assert not (known.why_broken and known.healthy)


def test_a_replica_that_hangs_gets_a_few_probes_however_many_adapters_it_has():
    """Each of 500 adapters probed it, at each router."""

    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        async with gateway_to(cluster, pool(*(f"a{number}" for number in range(20)))) as gateway:
            await settle()
            chem.hung = {"r1"}
            chem.replicas.eject("r1", "test")
            chem.reached.clear()
            await settle(10)
            assert chem.reached == ["r1"] * MAX_CLAIMS
            chem.hung.clear()
            await settle(60)
            assert chem.replicas.ejected == frozenset()
            assert {gateway.state(f"a{number}") for number in range(20)} == {ModelState.READY}

    in_virtual_time(main())


def test_a_replica_that_answers_only_one_adapter_is_found_to_answer():
    async def main() -> None:
        cluster = Cluster()
        chem = cluster.models["chem"]
        chem.comes_up("r1", "r2")
        names = [f"a{number}" for number in range(2 * MAX_CLAIMS)]
        async with gateway_to(cluster, pool(*names)) as gateway:
            await settle()
            chem.without = {("r1", name): MISSING for name in names[:-1]}
            chem.replicas.eject("r1", "test")
            await settle(10)
            assert chem.replicas.ejected == frozenset()
            assert {gateway.state(name) for name in names} == {ModelState.READY}

    in_virtual_time(main())
