"""What single parts of a router cost at several sizes, in CPU time. Each function measures one size."""

from __future__ import annotations

import asyncio
import json
import time
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from hashlib import blake2b
from typing import Any

from deployments.replicas.affinity import least_busy_in_order, rank_replicas
from deployments.replicas.replica_set import ReplicaSet
from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.admission.lease import Renewal, Reports
from router.admission.leases import Leases, OwnKeeper
from router.admission.limit_ledger import LimitLedger
from router.api.keys import permitted
from router.api_key import ApiKey
from router.availability import ModelState
from router.decisions.turn_authors import MAX_TURNS, TurnAuthors
from router.decoding.policy import Routing, select_experts
from router.table import META, RouteTable
from tests.fakes.models import in_virtual_time

POOL_SIZE = 50  # experts that share an application
RENEWALS_PER_S = 2
MAX_STREAMS = 32
Figures = dict[str, float]


def table(num_experts: int, num_keys: int = 0, **changes: Any) -> dict[str, Any]:
    """A route table as `user_config`, with the fields that `cluster.serve.route_table` writes for a pool."""
    return {
        "table_version": 1,
        "name": "generalist",
        "meta": {"app": META, "max_streams": MAX_STREAMS},
        "experts": {
            f"expert-{number:04}": {
                "cold_start": "wait",
                "on_unavailable": "meta",
                "app": f"pool-{number // POOL_SIZE}",
                "adapter": f"expert-{number:04}",
                "scales_to_zero": False,
                "first_token_s": None,
                "gap_s": None,
                "max_streams": MAX_STREAMS,
            }
            for number in range(num_experts)
        },
        "keys": [key(number).model_dump(mode="json") for number in range(num_keys)],
        **changes,
    }


def key(number: int, **changes: Any) -> ApiKey:
    digest = blake2b(str(number).encode(), digest_size=32).hexdigest()
    return ApiKey(name=f"team-{number:04}", sha256=digest, **{"requests_per_minute": 600, **changes})


def of_table(num_experts: int) -> Figures:
    """The route table, how a router reads it, and what each request does with all experts."""
    values = table(num_experts)
    read = RouteTable.model_validate(values)
    half = key(0, experts=tuple(list(read.experts)[::2]))

    def decide() -> None:
        select_experts(read, Routing(), state_of=lambda _: ModelState.READY, masked=(), num_handoffs=0)

    return {
        "table_kb": len(json.dumps(values)) / 1000,
        "validate_ms": 1e3 * cpu_s(lambda: RouteTable.model_validate(values)),
        "allowed_set_us": 1e6 * cpu_s(decide),
        "restrict_to_key_us": 1e6 * cpu_s(lambda: permitted(read, half)),
    }


def of_aliases(num_aliases: int) -> Figures:
    """The list of all names, for `GET /v1/models`; every expert has an alias."""
    names = {f"alias-{number:04}": f"generalist/expert-{number:04}" for number in range(num_aliases)}
    read = RouteTable.model_validate(table(num_aliases, aliases=names))
    return {"model_ids_us": 1e6 * cpu_s(lambda: read.model_ids)}


def of_affinity(num_replicas: int) -> Figures:
    names = [f"{number:08x}" for number in range(num_replicas)]
    lengths = {name: number % 7 for number, name in enumerate(names)}
    return {
        "choose_replica_us": 1e6
        * cpu_s(lambda: least_busy_in_order(rank_replicas(b"conversation", names), lengths, MAX_STREAMS))
    }


def of_replica_set(num_adapters: int) -> Figures:
    """A pool of ten replicas as its adapters see it: knowing all of them, and one change of the replicas."""
    names = [f"r{number}" for number in range(10)]

    def meet() -> list[Any]:
        replicas = ReplicaSet("pool")
        replicas.set_running(names)
        return [replicas, *(replicas.for_adapter(f"a{number}") for number in range(num_adapters))]

    replicas, *adapters = meet()
    for adapter in adapters:
        adapter.answered("r0")
    return {
        "meet_adapters_ms": 1e3 * cpu_s(meet),
        "replica_change_us": 1e6 * cpu_s(lambda: replicas.set_running(names)),
    }


def of_queue(num_waiting: int, *, num_keys: int) -> Figures:
    """Calls of `num_keys` keys that wait for one application at once, each until its slot; for each call."""

    async def main() -> None:
        num_slots = 0
        admission = Admission(lambda _: num_slots, lambda _: num_waiting)
        contexts = [
            AdmissionContext(60.0, num_waiting + 1, f"key {number % num_keys}")
            for number in range(num_waiting)
        ]

        async def wait(context: AdmissionContext) -> None:
            async with admission.slot("meta", "meta", context, has_output=False, left_s=600.0):
                pass

        num_slots = 1  # held, so that every call waits
        async with admission.slot("meta", "meta", AdmissionContext(60.0, 1), has_output=False, left_s=600.0):
            tasks = [asyncio.create_task(wait(context)) for context in contexts]
            await asyncio.sleep(0)
            assert admission.num_waiting == num_waiting
        await asyncio.gather(*tasks)

    return {"queued_call_us": 1e6 * cpu_s(lambda: in_virtual_time(main())) / num_waiting}


def of_keeper(num_routers: int, *, num_keys: int) -> Figures:
    """CPU of the keeper of limits and of each router for one second, if every router sees every key."""
    now_s = 0.0
    ledger = _TimedLedger(lambda: now_s, lambda: now_s)
    keys = [key(number, requests_per_minute=600_000) for number in range(num_keys)]
    routers = [Leases(OwnKeeper(ledger), lambda: now_s) for _ in range(num_routers)]

    async def main() -> None:
        nonlocal now_s
        for _ in range(2 * RENEWALS_PER_S):
            now_s += 1 / RENEWALS_PER_S
            for router in routers:
                for each in keys:
                    with suppress(Exception):
                        await router.take(each, 1)
                        router.end(each.name, 1)
                await router.renew_all()

    asyncio.run(main())
    return {"keeper_ms_per_s": 1e3 * ledger.cpu_s / 2}


def of_turns(num_turns: int) -> Figures:
    """Memory for the authors of turns; there are never more than `MAX_TURNS`."""
    tracemalloc.start()
    authors = TurnAuthors()
    for number in range(num_turns):
        authors.learn({blake2b(str(number).encode(), digest_size=16).hexdigest(): "expert"})
    size_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(authors) == min(num_turns, MAX_TURNS)
    return {"turn_authors_mb": size_bytes / 1e6}


class _TimedLedger(LimitLedger):
    cpu_s = 0.0

    def renew(self, router: str, day: int, reports: Reports) -> Renewal:
        began_s = time.process_time()
        renewal = super().renew(router, day, reports)
        self.cpu_s += time.process_time() - began_s
        return renewal


def cpu_s(work: Callable[[], Any], least_s: float = 0.02) -> float:
    """CPU seconds of one run: the least of three rounds, each of which takes `least_s` or is one run."""
    return min(_round_s(work, least_s) for _ in range(3))


def _round_s(work: Callable[[], Any], least_s: float) -> float:
    began_s, num_runs = time.process_time(), 0
    while not num_runs or time.process_time() - began_s < least_s:
        work()
        num_runs += 1
    return (time.process_time() - began_s) / num_runs
