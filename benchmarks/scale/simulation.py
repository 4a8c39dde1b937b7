"""A cluster in virtual time: real routers without HTTP, before simulated applications."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import asdict, dataclass, field
from hashlib import blake2b

from benchmarks.scale.costs import POOL_SIZE, Figures, key, table
from deployments.model_gateway import ModelGateway
from deployments.probe import start
from deployments.remote import Deployed
from deployments.replicas.affinity import rank_replicas
from deployments.replicas.probe_ids import is_probe, probed_replica
from deployments.replicas.replica_set import ReplicaSet
from router.admission.lease import RENEWAL_PERIOD_S
from router.admission.leases import Leases, OwnKeeper
from router.admission.limit_ledger import LimitLedger
from router.api.key_limits import KeyLimits
from router.availability import ModelState
from router.decoding.decode import Decoder
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Target
from router.model_port import Finish, ModelChunk, ModelRequest
from router.prompt import Message, Prompt
from router.table import META, RouteTable
from tests.fakes.models import in_virtual_time
from tests.fakes.replicas import FakeBroadcast

NUM_KEYS = 100
NUM_TOKENS = 10
FAULT_S = 10.0
CPU_OF_ANSWER = "CPU of an answer, ms"
LAST_ANSWER = "last answer, s after the last arrival"


@dataclass(frozen=True, slots=True)
class Size:
    """All streams begin within `arrivals_s`. A replica has `slots`, and makes a token in `step_s`."""

    num_routers: int
    num_experts: int
    num_replicas: int
    num_streams: int
    arrivals_s: float = 10.0
    step_s: float = 0.05
    slots: int = 32

    def replicas(self) -> dict[str, list[str]]:
        """By application: half of the replicas are the meta's, the others are those of pools."""
        num_pools = max(1, self.num_experts // POOL_SIZE)
        num_each = max(1, self.num_replicas // 2 // num_pools)
        nums = {META: self.num_replicas // 2} | {f"pool-{n}": num_each for n in range(num_pools)}
        return {app: [f"{app} r{n}" for n in range(num)] for app, num in nums.items()}


@dataclass
class World:
    """What all routers see: the replicas, their slots, and which of them hang."""

    size: Size
    hung: set[str] = field(default_factory=set)
    num_probes: Counter[str] = field(default_factory=Counter)  # by the replica that they must go to
    num_handles: int = 0

    def __post_init__(self) -> None:
        self.replicas = self.size.replicas()
        self.slots = {
            name: asyncio.Semaphore(self.size.slots) for names in self.replicas.values() for name in names
        }

    async def connect(self, app: str) -> Deployed:
        self.num_handles += 1
        return SimulatedApp(app, self)


class SimulatedApp:
    """An application as one router sees it. Its meta hands over at once to the expert that the question
    names; an expert writes `NUM_TOKENS` tokens. A hung replica takes calls and says nothing."""

    def __init__(self, app: str, world: World) -> None:
        self.on_unavailable: Callable[[], None] = lambda: None
        self.replicas = ReplicaSet(app)
        self.replicas.set_running(world.replicas[app])
        self._app, self._world = app, world

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        request_id, calls = request.request_id, self.replicas.calls
        calls.began(request_id, request.adapter)
        try:
            replica = probed_replica(request_id) or self._choose(request)
            self._world.num_probes[probed_replica(request_id) or "any"] += is_probe(request_id)
            calls.placed(request_id, replica)
            if replica in self._world.hung:
                await asyncio.Event().wait()
            async with self._world.slots[replica]:
                calls.accepted(request_id)
                for chunk in self._chunks(request):
                    await asyncio.sleep(0.0 if chunk.finish is Finish.STOP else self._world.size.step_s)
                    self.replicas.call_produced(request_id, request.adapter, chunk.finish)
                    yield chunk
        finally:
            calls.ended(request_id, request.adapter)

    def _choose(self, request: ModelRequest) -> str:
        known = self.replicas.for_adapter(request.adapter)
        digest = blake2b(request.request_id.encode(), digest_size=16).digest()
        return rank_replicas(digest, known.healthy or known.running)[0]

    def _chunks(self, request: ModelRequest) -> list[ModelChunk]:
        if is_probe(request.request_id):
            return [ModelChunk(finish=Finish.STOP)]
        if self._app == META:
            expert = request.prompt.messages[-1].content if request.prompt.messages else ""
            assert expert in request.allowed, f"{expert} is not in the allowed set"
            return [ModelChunk(num_prompt_tokens=3, finish=Finish.EXPERT, expert=expert, probability=0.9)]
        return [
            *(ModelChunk("word ", num_tokens=1) for _ in range(NUM_TOKENS)),
            ModelChunk(finish=Finish.STOP),
        ]


def simulate(size: Size) -> Figures:
    """Start all routers, send all streams, and let one replica of a pool hang. CPU is that of all routers."""
    return in_virtual_time(_simulate(size))


async def _simulate(size: Size) -> Figures:
    world, clock = World(size), asyncio.get_running_loop().time
    ledger = LimitLedger(clock, clock)
    limits = {"max_waiting": size.num_streams}
    values = table(size.num_experts, NUM_KEYS, limits=limits)
    routers = [_router(world, ledger) for _ in range(size.num_routers)]
    renewing = [start(_keep_renewing(router), "renew leases") for router in routers]
    try:
        start_cpu_s = await _started(routers, values)
        num_start_probes = world.num_probes.total()
        idle_cpu_s = await _cpu_s_of(asyncio.sleep(FAULT_S))
        answers_cpu_s, last_s = await _answered(size, routers)
        num_fault_probes = await _probes_of_a_fault(world, routers)
    finally:
        for task in renewing:
            task.cancel()
        await asyncio.gather(*(router.close() for router in routers))
    return {
        **asdict(size),
        "apps": len(world.replicas),
        "handles of all routers": world.num_handles,
        "connections of routers to replicas": size.num_routers * size.num_replicas,
        "probes until all routers know all models": num_start_probes,
        "CPU of a router to start, s": start_cpu_s / size.num_routers,
        "CPU of an idle router, ms/s": 1e3 * idle_cpu_s / FAULT_S / size.num_routers,
        CPU_OF_ANSWER: 1e3 * answers_cpu_s / size.num_streams,
        LAST_ANSWER: last_s,
        "probes in 10 s of one replica that hangs": num_fault_probes,
    }


def _router(world: World, ledger: LimitLedger) -> ModelGateway:
    leases = Leases(OwnKeeper(ledger), asyncio.get_running_loop().time)
    return ModelGateway(world.connect, 10_000, FakeBroadcast(), limits=KeyLimits(leases))


async def _keep_renewing(router: ModelGateway) -> None:
    while True:
        await router.limits.leases.renew_all()
        await asyncio.sleep(RENEWAL_PERIOD_S)


async def _started(routers: list[ModelGateway], values: dict[str, object]) -> float:
    async def begin() -> None:
        for router in routers:
            await router.install(RouteTable.model_validate(values))
            await router.wait_until_settled(60.0)

    spent_s = await _cpu_s_of(begin())
    assert all(r.state(name) is ModelState.READY for r in routers for name in r.table.models)
    return spent_s


async def _answered(size: Size, routers: list[ModelGateway]) -> tuple[float, float]:
    """CPU seconds of all answers, and the seconds between the last arrival and the last end."""
    experts = list(routers[0].table.experts)

    async def answer(number: int) -> None:
        await asyncio.sleep(size.arrivals_s * number / size.num_streams)
        router, expert = routers[number % len(routers)], experts[number * 7 % len(experts)]
        await _answer(router, number, expert)

    async def all_answers() -> None:
        await asyncio.gather(*(answer(number) for number in range(size.num_streams)))

    began_s = asyncio.get_running_loop().time()
    spent_s = await _cpu_s_of(all_answers())
    return spent_s, asyncio.get_running_loop().time() - began_s - size.arrivals_s


async def _answer(router: ModelGateway, number: int, expert: str) -> None:
    """As an endpoint: the key's leases, then the decode loop."""
    own, leases = key(number % NUM_KEYS, requests_per_minute=1_000_000), router.limits.leases
    await leases.take(own, 1)
    decoder = Decoder(
        router.table, router.models, router, admission=router.admission, recorder=router.recorder
    )
    prompt = Prompt(messages=(Message("user", expert),))
    generation = GenerationRequest(f"answer {number}", prompt, Target(META, routed=True))
    try:
        items = [item async for item in decoder.decode(generation)]
    finally:
        leases.end(own.name, 1)
    last = items[-1]
    assert isinstance(last, Done)
    assert last.author == expert
    assert last.num_completion_tokens == NUM_TOKENS


async def _probes_of_a_fault(world: World, routers: list[ModelGateway]) -> int:
    """How many probes a replica of a pool gets in the first seconds in which it hangs."""
    replica = world.replicas["pool-0"][0]
    world.hung.add(replica)
    for router in routers:
        router.models["pool-0"].replicas.eject(replica, "it hangs")
    await asyncio.sleep(FAULT_S)
    return world.num_probes[replica]


async def _cpu_s_of(work: object) -> float:
    began_s = time.process_time()
    await work  # type: ignore[misc]
    return time.process_time() - began_s
