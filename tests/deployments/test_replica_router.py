"""Our request router inside Serve's own routing of calls, up to the replicas."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray import ActorID
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.serve._private import router as serve_router
from ray.serve._private.common import (
    DeploymentHandleSource,
    DeploymentID,
    ReplicaID,
    ReplicaQueueLengthInfo,
    RequestMetadata,
)
from ray.serve._private.config import DeploymentConfig
from ray.serve.config import RequestRouterConfig
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.replica_router import REQUEST_ROUTER
from deployments.replicas.affinity import KEEPS_PREFIXES, VOCABULARY, conversation_digest, rank_replicas
from deployments.replicas.call_placements import CallPlacement
from deployments.replicas.probe_ids import new_probe_id
from deployments.replicas.replica_set import AdapterReplicas, ReplicaSet, replicas_of
from deployments.replicas.wire_format import Sent
from experts.engine.request import EngineRequest

DEPLOYMENT = DeploymentID("Model", "expert-chem")


@dataclass
class Answer:
    """A replica's response to a call: accepted (True), full (False), an error, or none (None)."""

    says: Exception | bool | None
    num_ongoing: int
    done: list[Callable[[Any], None]] = field(default_factory=list)
    is_cancelled: bool = False

    async def get_rejection_response(self) -> ReplicaQueueLengthInfo:
        if self.says is None:
            await asyncio.Event().wait()
        if isinstance(self.says, Exception):
            raise self.says
        return ReplicaQueueLengthInfo(accepted=bool(self.says), num_ongoing_requests=self.num_ongoing)

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.done.append(callback)

    def cancel(self) -> None:
        self.is_cancelled = True

    def end(self) -> None:
        for callback in self.done:
            callback(self)


@dataclass
class FakeReplica:
    """A replica as Serve's router sees it. `says` is its response to every call, `queue_len` the queue length
    that it reports when it is asked. When it accepts a call, it reports how many it has accepted here."""

    name: str
    says: Exception | bool | None = True
    queue_len: int | Exception = 0
    max_ongoing_requests: int = 4
    calls: list[str] = field(default_factory=list)
    open: list[Answer] = field(default_factory=list)
    num_queue_len_calls: int = 0
    node_id: str = "node"
    availability_zone: str | None = None
    is_cross_language: bool = False
    actor_id: ActorID = field(default_factory=ActorID.nil)
    multiplexed_model_ids: set[str] = field(default_factory=set)
    replica_metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def replica_id(self) -> ReplicaID:
        return ReplicaID(self.name, DEPLOYMENT)

    async def get_queue_len(self, *, deadline_s: float) -> int:
        self.num_queue_len_calls += 1
        if isinstance(self.queue_len, Exception):
            raise self.queue_len
        return self.queue_len

    def try_send_request(self, pr: Any, with_rejection: bool) -> Answer:
        assert with_rejection, "Serve asks before it counts a call as accepted"
        self.calls.append(pr.args[0].request.request_id)
        num_ongoing = self.max_ongoing_requests if self.says is False else len(self.open) + 1
        answer = Answer(self.says, num_ongoing)
        if self.says is True:
            self.open.append(answer)
        return answer


@dataclass
class Serve:
    """One handle's router, as Serve builds it from a deployment's config."""

    router: serve_router.AsyncioRouter
    known: ReplicaSet

    def runs(self, *replicas: FakeReplica) -> None:
        self.chooser.update_replicas(list(replicas))

    @property
    def chooser(self) -> Any:
        return self.router.request_router

    def forgets(self) -> None:
        """Its cached queue lengths are too old."""
        for replica in self.chooser.curr_replicas:
            self.chooser.replica_queue_len_cache.invalidate_key(replica)

    async def ends_calls(self) -> None:
        for replica in self.chooser.curr_replicas.values():
            while replica.open:
                replica.open.pop().end()
        await asyncio.sleep(0)  # in Serve the callbacks usually come from another thread

    async def knows(self, *replicas: FakeReplica) -> None:
        """They run, and their queue lengths are cached."""
        self.runs(*replicas)
        cache = self.chooser.replica_queue_len_cache
        await until(lambda: all(cache.get(one.replica_id) is not None for one in replicas))

    async def call(self, request_id: str, text: str | None = None, adapter: str | None = None) -> Any:
        metadata = RequestMetadata("r", "shared by all calls of a request", call_method="generate")
        call = EngineRequest(request_id, text=text, adapter=adapter)
        return await asyncio.wait_for(self.router.assign_request(metadata, Sent(call)), 5)

    async def where(self, request_id: str, text: str) -> str | None:
        await self.call(request_id, text)
        return self.known.calls.find(request_id).replica


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr(serve_router, "LongPollClient", lambda *args, **kwargs: None)
    monkeypatch.setattr(serve_router, "SharedRouterLongPollClient", _NoPolling)
    monkeypatch.setattr("ray.get_runtime_context", _NoRuntimeContext)
    router = serve_router.AsyncioRouter(
        None,  # type: ignore[arg-type]  # the controller, which is not polled
        DEPLOYMENT,
        "handle",
        "actor",
        DeploymentHandleSource.REPLICA,
        asyncio.get_running_loop(),
        enable_strict_max_ongoing_requests=True,
        node_id="node",
        availability_zone=None,
        prefer_local_node_routing=False,
        _request_router_initialized_event=asyncio.Event(),
    )
    # As every process gets it: the controller pickles it by value.
    chosen = RequestRouterConfig.model_validate({"request_router_class": REQUEST_ROUTER})
    router.update_deployment_config(DeploymentConfig(request_router_config=chosen))
    assert type(router.request_router).__name__ == "HealthAwareRequestRouter"
    known = replicas_of(DEPLOYMENT.app_name)
    known.set_running(())  # that of an earlier test may still be alive
    return Serve(router, known)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("the condition did not become true")


class _NoPolling:
    @classmethod
    def get_or_create(cls, *_: Any) -> _NoPolling:
        return cls()

    def register(self, _: Any) -> None: ...


class _NoRuntimeContext:
    def get_actor_id(self) -> None: ...


async def test_calls_are_spread_and_their_placement_is_known(serve: Serve):
    replicas = [FakeReplica("a"), FakeReplica("b")]
    serve.runs(*replicas)
    await asyncio.gather(*[serve.call(f"r{i}") for i in range(6)])
    assert all(replica.calls for replica in replicas)
    for replica in replicas:
        assert [serve.known.calls.find(call) for call in replica.calls] == [
            CallPlacement(replica.name, is_accepted=True)
        ] * len(replica.calls)


async def test_an_ejected_replica_is_avoided_until_it_is_cleared(serve: Serve):
    good, bad = FakeReplica("good"), FakeReplica("bad")
    serve.runs(good, bad)
    serve.known.eject("bad", "test")
    for i in range(20):
        await serve.call(f"r{i}")
    assert (len(good.calls), bad.calls) == (20, [])
    serve.known.answered("bad")
    for i in range(40):
        await serve.call(f"s{i}")
    assert bad.calls


async def test_calls_go_through_if_all_replicas_are_ejected(serve: Serve):
    replicas = [FakeReplica("a"), FakeReplica("b")]
    serve.runs(*replicas)
    for replica in replicas:
        serve.known.eject(replica.name, "test")
    for i in range(20):
        await serve.call(f"r{i}")
    assert all(replica.calls for replica in replicas)


async def test_a_call_that_a_hanging_replica_never_accepted_is_placed_there(serve: Serve):
    hung = FakeReplica("hung", says=None)
    serve.runs(hung)
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: bool(hung.calls))
    assert serve.known.calls.find("r") == CallPlacement("hung", is_accepted=False)
    serve.known.call_stalled("r")
    assert serve.known.ejected == {"hung"}
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_call_that_waits_for_room_has_no_placement(serve: Serve):
    full = FakeReplica("full", says=False, queue_len=4)
    await serve.knows(full)
    num_queue_len_calls = full.num_queue_len_calls
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: full.num_queue_len_calls == num_queue_len_calls + 3)
    assert (full.calls, serve.known.calls.find("r")) == ([], CallPlacement())
    full.says, full.queue_len = True, 0
    await calling
    assert serve.known.calls.find("r") == CallPlacement("full", is_accepted=True)


async def test_a_single_replica_is_called_without_asking_its_queue_length(serve: Serve):
    only = FakeReplica("only")
    await serve.knows(only)
    num_queue_len_calls = only.num_queue_len_calls
    serve.forgets()
    await serve.call("r")
    assert (only.calls, only.num_queue_len_calls) == (["r"], num_queue_len_calls)


async def test_a_call_waits_for_room_if_the_single_replica_is_full(serve: Serve):
    only = FakeReplica("only", says=False, queue_len=4)
    await serve.knows(only)
    num_queue_len_calls = only.num_queue_len_calls
    serve.forgets()
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: only.num_queue_len_calls == num_queue_len_calls + 3)
    assert (only.calls, serve.known.calls.find("r")) == (["r"], CallPlacement())
    only.says, only.queue_len = True, 0
    await calling
    assert serve.known.calls.find("r") == CallPlacement("only", is_accepted=True)


async def test_a_replica_that_cannot_be_reached_is_ejected_and_the_call_goes_to_another(serve: Serve):
    gone, good = FakeReplica("gone", says=ActorUnavailableError("gone", None)), FakeReplica("good")
    serve.runs(gone, good)
    while not gone.calls:  # which of the two is tried first is random
        await serve.call("r")
    assert serve.known.ejected == {"gone"}
    assert serve.known.calls.find("r") == CallPlacement("good", is_accepted=True)
    for i in range(10):
        await serve.call(f"r{i}")
    assert len(gone.calls) == 1


async def test_a_replica_that_died_no_longer_counts_as_running(serve: Serve):
    dead = FakeReplica("dead", says=ActorUnavailableError("gone", None), queue_len=ActorDiedError())
    serve.runs(dead)
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: not serve.known.running)
    assert serve.known.ejected == frozenset()
    serve.runs(FakeReplica("new"))
    await calling
    assert serve.known.running == {"new"}


async def test_a_probe_bypasses_the_queue(serve: Serve):
    full, ejected = FakeReplica("full", queue_len=4), FakeReplica("ejected", queue_len=4)
    serve.runs(full, ejected)
    serve.known.eject("ejected", "test")
    waiting = asyncio.create_task(serve.call("r"))
    for _ in range(5):
        await serve.call(new_probe_id("ejected"))
    assert (full.calls, len(ejected.calls)) == ([], 5)
    full.queue_len = 0
    await waiting
    assert (full.calls, len(ejected.calls)) == (["r"], 5)


@pytest.mark.parametrize("says", [False, ActorUnavailableError("gone", None)], ids=["full", "gone"])
async def test_a_probe_that_its_replica_refuses_is_not_retried(serve: Serve, says: Any):
    ejected, probe_id = FakeReplica("ejected", says=says), new_probe_id("ejected")
    serve.runs(ejected, FakeReplica("good"))
    with pytest.raises(DeploymentUnavailableError):
        await serve.call(probe_id)
    assert len(ejected.calls) == 1
    assert serve.known.calls.find(probe_id).replica == "ejected"


async def test_two_probes_at_once_are_placed_separately(serve: Serve):
    replicas = [FakeReplica("a", says=None), FakeReplica("b", says=None)]
    serve.runs(*replicas)
    ids = [new_probe_id(), new_probe_id()]
    probes = [asyncio.create_task(serve.call(probe_id)) for probe_id in ids]
    await until(lambda: sum(len(replica.calls) for replica in replicas) == 2)
    for replica in replicas:
        for probe_id in replica.calls:
            assert serve.known.calls.find(probe_id).replica == replica.name
    assert sorted(call for replica in replicas for call in replica.calls) == sorted(ids)
    for probe in probes:
        probe.cancel()
    await asyncio.wait(probes)


async def test_a_probe_of_a_replica_that_left_is_refused(serve: Serve):
    serve.runs(FakeReplica("good"))
    with pytest.raises(DeploymentUnavailableError):
        await serve.call(new_probe_id("left"))


async def test_a_replica_that_leaves_is_forgotten(serve: Serve):
    serve.runs(FakeReplica("a"), FakeReplica("b"))
    serve.known.eject("a", "test")
    serve.runs(FakeReplica("b"))
    assert (serve.known.running, serve.known.ejected) == (frozenset({"b"}), frozenset())


async def test_a_models_vocabulary_is_that_of_all_its_replicas_and_known_while_it_sleeps(serve: Serve):
    def has(name: str, vocabulary: str | None) -> FakeReplica:
        return FakeReplica(name, replica_metadata={VOCABULARY: vocabulary})

    for replicas, expected in (
        ((has("a", "old"),), "old"),
        ((has("a", "old"), has("b", "new")), None),
        ((has("b", "new"), has("c", "new")), "new"),
        ((), "new"),
        ((has("d", None),), None),
    ):
        serve.runs(*replicas)
        assert serve.known.vocabulary == expected


def keeping(*names: str, max_ongoing_requests: int = 16) -> list[FakeReplica]:
    """Replicas whose engines have a prefix cache."""
    said = {KEEPS_PREFIXES: True}
    return [
        FakeReplica(one, replica_metadata=said, max_ongoing_requests=max_ongoing_requests) for one in names
    ]


def homes(text: str, *replicas: FakeReplica) -> list[FakeReplica]:
    """The replicas in the order of preference for the text."""
    order = rank_replicas(conversation_digest(EngineRequest("", text=text)), [one.name for one in replicas])
    return sorted(replicas, key=lambda one: order.index(one.name))


async def test_a_conversation_stays_on_one_replica_while_others_are_on_others(serve: Serve):
    replicas = keeping("a", "b", "c")
    serve.runs(*replicas)
    for text in map(str, range(12)):
        home, *_ = homes(text, *replicas)
        for turn in range(3):
            assert await serve.where(f"{text}-{turn}", text) == home.name
            await serve.ends_calls()
    assert all(len(one.calls) % 3 == 0 and one.calls for one in replicas)


async def test_a_conversation_stays_there_after_a_long_pause(serve: Serve):
    replicas = keeping("a", "b")
    serve.runs(*replicas)
    home, _ = homes("chat", *replicas)
    for turn in range(8):
        assert await serve.where(f"r{turn}", "chat") == home.name
        await serve.ends_calls()
        serve.forgets()


async def test_replicas_without_a_prefix_cache_are_chosen_by_load(serve: Serve):
    replicas = [FakeReplica("a", max_ongoing_requests=64), FakeReplica("b", max_ongoing_requests=64)]
    await serve.knows(*replicas)
    for i in range(30):
        await serve.call(f"r{i}", "chat")
    assert [len(one.calls) for one in replicas] == [15, 15]


async def test_only_replicas_with_a_prefix_cache_are_preferred(serve: Serve):
    """As during a rollout that switches the cache on."""
    old, (one, other) = FakeReplica("old", max_ongoing_requests=16), keeping("one", "other")
    serve.runs(old, one, other)
    home, _ = homes("chat", one, other)
    assert {await serve.where(f"r{i}", "chat") for i in range(3)} == {home.name}


async def test_a_preferred_replica_that_is_clearly_busier_is_passed_over_for_a_while(serve: Serve):
    home, second, third = replicas = homes("chat", *keeping("a", "b", "c"))
    home.queue_len = 9
    await serve.knows(*replicas)
    assert await serve.where("r1", "chat") == second.name
    home.queue_len = 0
    serve.forgets()
    assert await serve.where("r2", "chat") == home.name
    assert third.calls == []


async def test_a_burst_of_one_conversation_is_spread(serve: Serve):
    replicas = keeping("a", "b", max_ongoing_requests=32)
    await serve.knows(*replicas)
    await asyncio.gather(*[serve.call(f"r{i}", "chat") for i in range(24)])
    home, other = homes("chat", *replicas)
    assert len(home.calls) - len(other.calls) in (4, 5)


async def test_a_preferred_replica_that_is_ejected_is_passed_over_until_it_is_cleared(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    serve.runs(*replicas)
    serve.known.eject(home.name, "test")
    assert {await serve.where(f"r{i}", "chat") for i in range(3)} == {second.name}
    serve.known.answered(home.name)
    assert await serve.where("s", "chat") == home.name


async def test_a_call_goes_to_the_next_replica_if_the_preferred_is_gone(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.says = ActorUnavailableError("gone", None)
    serve.runs(*replicas)
    assert await serve.where("r", "chat") == second.name
    assert await serve.where("r", "chat") == second.name
    assert len(home.calls) == 1


async def test_a_preferred_replica_that_does_not_report_its_load_is_passed_over(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.queue_len = ActorUnavailableError("gone", None)
    serve.runs(*replicas)
    assert await serve.where("r", "chat") == second.name


async def test_a_preferred_replica_that_is_full_is_passed_over(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.says = False
    await serve.knows(*replicas)
    assert await serve.where("r", "chat") == second.name
    assert home.calls


async def test_calls_with_a_preferred_replica_do_not_overtake_queued_calls(serve: Serve):
    replicas = keeping("a", "b", max_ongoing_requests=1)
    for one in replicas:
        one.queue_len = 1
    serve.runs(*replicas)
    first = asyncio.create_task(serve.call("first", "chat"))
    await until(lambda: sum(one.num_queue_len_calls for one in replicas) >= 4)
    replicas[0].queue_len = 0
    second = asyncio.create_task(serve.call("second", "chat"))
    await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    await first
    replicas[1].queue_len = 0
    await second
    assert [call for one in replicas for call in one.calls] == ["first", "second"]


async def test_an_undirected_probe_has_no_preferred_replica(serve: Serve):
    replicas = keeping("a", "b", max_ongoing_requests=64)
    await serve.knows(*replicas)
    for _ in range(30):
        await serve.call(new_probe_id(), "ping")
    assert [len(one.calls) for one in replicas] == [15, 15]


async def test_a_replica_that_lacks_an_adapter_gets_the_calls_of_other_adapters(serve: Serve):
    lacking, other = FakeReplica("r1"), FakeReplica("r2")
    serve.runs(lacking, other)
    law = serve.known.for_adapter("law")
    assert isinstance(law, AdapterReplicas)
    law.mark_missing("r1", is_broken=False)
    for number in range(20):
        await serve.call(f"law-{number}", adapter="law")
        await serve.call(f"chem-{number}", adapter="chem")
    assert not any(call.startswith("law") for call in lacking.calls)
    assert any(call.startswith("chem") for call in lacking.calls)
