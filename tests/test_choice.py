"""Serve's own routing of calls with our choice of replicas in it, up to the replicas themselves."""

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

from deployments.adapter_replicas import AdapterReplicas
from deployments.affinity import KEEPS_PREFIXES, conversation, ranked
from deployments.choice import CHOICE
from deployments.replicas import Placement, ReplicaSet, probe_id, replicas_of
from experts.engine.base import Call

DEPLOYMENT = DeploymentID("Model", "expert-chem")


@dataclass
class Answer:
    """What a replica says to a call: that it takes it or is full, after an error or never."""

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
    """A replica as Serve's router sees one; `says` is what it answers to every call. `queue_len` is what it
    says when it is asked for that; when it takes a call, it tells how many it has taken here."""

    name: str
    says: Exception | bool | None = True
    queue_len: int | Exception = 0
    max_ongoing_requests: int = 4
    calls: list[str] = field(default_factory=list)
    open: list[Answer] = field(default_factory=list)
    num_asked: int = 0
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
        self.num_asked += 1
        if isinstance(self.queue_len, Exception):
            raise self.queue_len
        return self.queue_len

    def try_send_request(self, pr: Any, with_rejection: bool) -> Answer:
        assert with_rejection, "Serve asks before it counts a call as accepted"
        self.calls.append(pr.args[0].request_id)
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
        """What it was told of queues is too old."""
        for replica in self.chooser.curr_replicas:
            self.chooser.replica_queue_len_cache.invalidate_key(replica)

    async def ends_calls(self) -> None:
        for replica in self.chooser.curr_replicas.values():
            while replica.open:
                replica.open.pop().end()
        await asyncio.sleep(0)  # the callbacks come from another thread, as a rule

    async def knows(self, *replicas: FakeReplica) -> None:
        """They run, and have said how many calls they have."""
        self.runs(*replicas)
        cache = self.chooser.replica_queue_len_cache
        await until(lambda: all(cache.get(one.replica_id) is not None for one in replicas))

    async def call(self, request_id: str, text: str | None = None, adapter: str | None = None) -> Any:
        metadata = RequestMetadata("r", "shared by all calls of a request", call_method="generate")
        call = Call(request_id, text=text, adapter=adapter)
        return await asyncio.wait_for(self.router.assign_request(metadata, call), 5)

    async def where(self, request_id: str, text: str) -> str | None:
        await self.call(request_id, text)
        return self.known.placement(request_id).replica


@pytest.fixture
async def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    monkeypatch.setattr(serve_router, "LongPollClient", lambda *args, **kwargs: None)
    monkeypatch.setattr(serve_router, "SharedRouterLongPollClient", _NobodyPolls)
    monkeypatch.setattr("ray.get_runtime_context", _Outside)
    router = serve_router.AsyncioRouter(
        None,  # type: ignore[arg-type]  # the controller: nobody polls it
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
    # As every process gets it: pickled by value in the controller.
    chosen = RequestRouterConfig.model_validate({"request_router_class": CHOICE})
    router.update_deployment_config(DeploymentConfig(request_router_config=chosen))
    assert type(router.request_router).__name__ == "AvoidingRouter"
    known = replicas_of(DEPLOYMENT.app_name)
    known.now_running(())  # an earlier test's may still be held
    return Serve(router, known)


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not come to that")


class _NobodyPolls:
    @classmethod
    def get_or_create(cls, *_: Any) -> _NobodyPolls:
        return cls()

    def register(self, _: Any) -> None: ...


class _Outside:
    def get_actor_id(self) -> None: ...


async def test_calls_are_spread_and_it_is_known_who_has_them(serve: Serve):
    replicas = [FakeReplica("a"), FakeReplica("b")]
    serve.runs(*replicas)
    await asyncio.gather(*[serve.call(f"r{i}") for i in range(6)])
    assert all(replica.calls for replica in replicas)
    for replica in replicas:
        assert [serve.known.placement(call) for call in replica.calls] == [
            Placement(replica.name, is_accepted=True)
        ] * len(replica.calls)


async def test_a_suspect_is_avoided_until_it_is_cleared(serve: Serve):
    good, bad = FakeReplica("good"), FakeReplica("bad")
    serve.runs(good, bad)
    serve.known.suspect("bad", "test")
    for i in range(20):
        await serve.call(f"r{i}")
    assert (len(good.calls), bad.calls) == (20, [])
    serve.known.answered("bad")
    for i in range(40):
        await serve.call(f"s{i}")
    assert bad.calls


async def test_where_all_are_suspect_calls_go_through(serve: Serve):
    replicas = [FakeReplica("a"), FakeReplica("b")]
    serve.runs(*replicas)
    for replica in replicas:
        serve.known.suspect(replica.name, "test")
    for i in range(20):
        await serve.call(f"r{i}")
    assert all(replica.calls for replica in replicas)


async def test_a_replica_that_hangs_is_known_to_have_the_call_that_it_never_accepted(serve: Serve):
    hung = FakeReplica("hung", says=None)
    serve.runs(hung)
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: bool(hung.calls))
    assert serve.known.placement("r") == Placement("hung", is_accepted=False)
    serve.known.stalled("r")
    assert serve.known.suspects == {"hung"}
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling


async def test_a_call_that_waits_for_room_is_nowhere(serve: Serve):
    full = FakeReplica("full", says=False, queue_len=4)
    await serve.knows(full)
    num_asked = full.num_asked
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: full.num_asked == num_asked + 3)
    assert (full.calls, serve.known.placement("r")) == ([], Placement())
    full.says, full.queue_len = True, 0
    await calling
    assert serve.known.placement("r") == Placement("full", is_accepted=True)


async def test_the_only_replica_is_not_asked_first_however_long_nobody_called(serve: Serve):
    only = FakeReplica("only")
    await serve.knows(only)
    num_asked = only.num_asked
    serve.forgets()
    await serve.call("r")
    assert (only.calls, only.num_asked) == (["r"], num_asked)


async def test_where_the_only_replica_is_full_after_all_a_call_waits_for_room(serve: Serve):
    only = FakeReplica("only", says=False, queue_len=4)
    await serve.knows(only)
    num_asked = only.num_asked
    serve.forgets()
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: only.num_asked == num_asked + 3)
    assert (only.calls, serve.known.placement("r")) == (["r"], Placement())
    only.says, only.queue_len = True, 0
    await calling
    assert serve.known.placement("r") == Placement("only", is_accepted=True)


async def test_a_replica_that_cannot_be_reached_is_suspect_and_the_call_goes_to_another(serve: Serve):
    gone, good = FakeReplica("gone", says=ActorUnavailableError("gone", None)), FakeReplica("good")
    serve.runs(gone, good)
    while not gone.calls:  # which of the two is asked first is drawn
        await serve.call("r")
    assert serve.known.suspects == {"gone"}
    assert serve.known.placement("r") == Placement("good", is_accepted=True)
    for i in range(10):
        await serve.call(f"r{i}")
    assert len(gone.calls) == 1


async def test_a_replica_that_died_does_not_run_any_more(serve: Serve):
    dead = FakeReplica("dead", says=ActorUnavailableError("gone", None), queue_len=ActorDiedError())
    serve.runs(dead)
    calling = asyncio.create_task(serve.call("r"))
    await until(lambda: not serve.known.running)
    assert serve.known.suspects == frozenset()
    serve.runs(FakeReplica("new"))
    await calling
    assert serve.known.running == {"new"}


async def test_a_probe_goes_to_its_replica_past_every_queue(serve: Serve):
    full, suspect = FakeReplica("full", queue_len=4), FakeReplica("suspect", queue_len=4)
    serve.runs(full, suspect)
    serve.known.suspect("suspect", "test")
    waiting = asyncio.create_task(serve.call("r"))
    for _ in range(5):
        await serve.call(probe_id("suspect"))
    assert (full.calls, len(suspect.calls)) == ([], 5)
    full.queue_len = 0
    await waiting
    assert (full.calls, len(suspect.calls)) == (["r"], 5)


@pytest.mark.parametrize("says", [False, ActorUnavailableError("gone", None)], ids=["full", "gone"])
async def test_a_probe_that_its_replica_does_not_take_is_not_repeated(serve: Serve, says: Any):
    suspect = FakeReplica("suspect", says=says)
    serve.runs(suspect, FakeReplica("good"))
    with pytest.raises(DeploymentUnavailableError):
        await serve.call(probe_id("suspect"))
    assert len(suspect.calls) == 1
    assert serve.known.placement(probe_id("suspect")).replica == "suspect"


async def test_a_probe_of_a_replica_that_left_is_refused(serve: Serve):
    serve.runs(FakeReplica("good"))
    with pytest.raises(DeploymentUnavailableError):
        await serve.call(probe_id("left"))


async def test_what_leaves_is_forgotten(serve: Serve):
    serve.runs(FakeReplica("a"), FakeReplica("b"))
    serve.known.suspect("a", "test")
    serve.runs(FakeReplica("b"))
    assert (serve.known.running, serve.known.suspects) == (frozenset({"b"}), frozenset())


def keeping(*names: str, max_ongoing_requests: int = 16) -> list[FakeReplica]:
    """Replicas whose engines keep what they have read."""
    said = {KEEPS_PREFIXES: True}
    return [
        FakeReplica(one, replica_metadata=said, max_ongoing_requests=max_ongoing_requests) for one in names
    ]


def homes(text: str, *replicas: FakeReplica) -> list[FakeReplica]:
    """Home first, and then who would take its place."""
    order = ranked(conversation(Call("", text=text)), [one.name for one in replicas])
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


async def test_it_stays_there_however_long_nobody_asked(serve: Serve):
    replicas = keeping("a", "b")
    serve.runs(*replicas)
    home, _ = homes("chat", *replicas)
    for turn in range(8):
        assert await serve.where(f"r{turn}", "chat") == home.name
        await serve.ends_calls()
        serve.forgets()


async def test_replicas_that_keep_nothing_are_chosen_as_ever(serve: Serve):
    replicas = [FakeReplica("a", max_ongoing_requests=64), FakeReplica("b", max_ongoing_requests=64)]
    await serve.knows(*replicas)
    for i in range(30):
        await serve.call(f"r{i}", "chat")
    assert [len(one.calls) for one in replicas] == [15, 15]


async def test_only_those_that_keep_prefixes_are_homes(serve: Serve):
    """While a rollout switches the cache on."""
    old, (one, other) = FakeReplica("old", max_ongoing_requests=16), keeping("one", "other")
    serve.runs(old, one, other)
    home, _ = homes("chat", one, other)
    assert {await serve.where(f"r{i}", "chat") for i in range(3)} == {home.name}


async def test_a_home_that_is_clearly_busier_is_left_for_the_next_until_it_is_not(serve: Serve):
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


async def test_a_suspect_home_is_left_until_it_is_cleared(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    serve.runs(*replicas)
    serve.known.suspect(home.name, "test")
    assert {await serve.where(f"r{i}", "chat") for i in range(3)} == {second.name}
    serve.known.answered(home.name)
    assert await serve.where("s", "chat") == home.name


async def test_a_call_whose_home_is_lost_goes_on_elsewhere(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.says = ActorUnavailableError("gone", None)
    serve.runs(*replicas)
    assert await serve.where("r", "chat") == second.name
    assert await serve.where("r", "chat") == second.name
    assert len(home.calls) == 1


async def test_a_home_that_does_not_tell_its_load_is_passed_over(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.queue_len = ActorUnavailableError("gone", None)
    serve.runs(*replicas)
    assert await serve.where("r", "chat") == second.name


async def test_a_home_that_is_full_after_all_sends_the_call_on(serve: Serve):
    home, second = replicas = homes("chat", *keeping("a", "b"))
    home.says = False
    await serve.knows(*replicas)
    assert await serve.where("r", "chat") == second.name
    assert home.calls


async def test_nobody_passes_those_who_wait(serve: Serve):
    replicas = keeping("a", "b", max_ongoing_requests=1)
    for one in replicas:
        one.queue_len = 1
    serve.runs(*replicas)
    first = asyncio.create_task(serve.call("first", "chat"))
    await until(lambda: sum(one.num_asked for one in replicas) >= 4)
    replicas[0].queue_len = 0
    second = asyncio.create_task(serve.call("second", "chat"))
    await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
    await first
    replicas[1].queue_len = 0
    await second
    assert [call for one in replicas for call in one.calls] == ["first", "second"]


async def test_a_question_to_whichever_replica_has_no_home(serve: Serve):
    replicas = keeping("a", "b", max_ongoing_requests=64)
    await serve.knows(*replicas)
    for _ in range(30):
        await serve.call(probe_id(), "ping")
    assert [len(one.calls) for one in replicas] == [15, 15]


async def test_a_replica_that_lacks_an_adapter_gets_calls_of_all_others(serve: Serve):
    lacking, other = FakeReplica("r1"), FakeReplica("r2")
    serve.runs(lacking, other)
    law = serve.known.for_calls_of("law")
    assert isinstance(law, AdapterReplicas)
    law.lacks("r1", is_broken=False)
    for number in range(20):
        await serve.call(f"law-{number}", adapter="law")
        await serve.call(f"chem-{number}", adapter="chem")
    assert not any(call.startswith("law") for call in lacking.calls)
    assert any(call.startswith("chem") for call in lacking.calls)
