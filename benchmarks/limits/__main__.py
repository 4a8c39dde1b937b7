"""How exactly several routers keep one key's limit together, and what that costs a request.

Each router is a Ray actor with the leases of a real router and the real keeper. One key may send 600 requests
a minute; clients offer ten times as many, first in a steady state, then while the keeper is killed. Prints a
table and one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import ray
from rich.console import Console
from rich.table import Table

from deployments.limits.keeper import NAME, NAMESPACE, RayKeeper, keep_renewing, renew
from router.admission.leases import Leases
from router.api_key import ApiKey
from router.errors import RateLimited

WARM_UP_S = 15.0  # the burst is used up, and every router knows its share


@dataclass(frozen=True, slots=True)
class Phase:
    """`allowed`: the limit in this time. Times of one request in the router, in microseconds."""

    name: str
    seconds: float
    num_offered: int
    num_passed: list[int]  # by router
    allowed: float
    of_limit: float
    median_us: float
    p99_us: float


class LimitedRouter:
    """Offers requests of the key to its own leases."""

    def __init__(self, key: dict[str, Any]) -> None:
        self._key = ApiKey.model_validate(key)
        self._keeper = RayKeeper()
        self._leases = Leases(self._keeper)

    async def start(self) -> bool:
        await renew(self._keeper, self._leases)
        self._renewing = asyncio.create_task(keep_renewing(self._keeper, self._leases, lambda: True))
        return not self._leases.is_alone

    async def offer(self, per_s: float, seconds: float) -> tuple[int, list[float]]:
        """How many of the requests passed, and how long each was in the router, in seconds."""
        num_passed, took_s, began_s = 0, list[float](), time.perf_counter()
        for number in range(round(per_s * seconds)):
            await asyncio.sleep(max(0.0, began_s + number / per_s - time.perf_counter()))
            asked_s = time.perf_counter()
            try:
                await self._leases.take(self._key, 1)
            except RateLimited:
                pass
            else:
                self._leases.end(self._key.name, 1)
                num_passed += 1
            took_s.append(time.perf_counter() - asked_s)
        return num_passed, took_s


def main() -> None:
    arguments = _arguments()
    ray.init(arguments.address, num_cpus=None if arguments.address else 1, log_to_driver=False)
    key = ApiKey(name="load", sha256="0" * 64, requests_per_minute=arguments.rpm)
    router_actor: Any = ray.remote(num_cpus=0)(LimitedRouter)
    routers = [router_actor.remote(key.model_dump()) for _ in range(arguments.routers)]
    assert all(ray.get([router.start.remote() for router in routers])), "the keeper does not answer"
    _phase("warm-up", routers, arguments, WARM_UP_S)
    phases = [_phase("steady", routers, arguments, arguments.seconds)]
    ray.kill(ray.get_actor(NAME, NAMESPACE))
    phases.append(_phase("keeper killed", routers, arguments, arguments.seconds / 2))
    _print(phases)
    print(
        json.dumps({"routers": arguments.routers, "rpm": arguments.rpm, "phases": list(map(asdict, phases))})
    )


def _phase(name: str, routers: Sequence[Any], arguments: argparse.Namespace, seconds: float) -> Phase:
    per_s = arguments.factor * arguments.rpm / 60 / len(routers)
    began_s = time.perf_counter()
    found = ray.get([router.offer.remote(per_s, seconds) for router in routers])
    lasted_s = time.perf_counter() - began_s
    passed = [num for num, _ in found]
    took_us = sorted(1e6 * took_s for _, each in found for took_s in each)
    allowed = arguments.rpm / 60 * lasted_s
    return Phase(
        name,
        round(lasted_s, 2),
        len(took_us),
        passed,
        round(allowed, 1),
        round(sum(passed) / allowed, 3),
        round(statistics.median(took_us), 1),
        round(took_us[int(0.99 * len(took_us))], 1),
    )


def _print(phases: Sequence[Phase]) -> None:
    table = Table(
        "phase", "seconds", "offered", "passed by router", "passed", "of the limit", "median, µs", "p99, µs"
    )
    for phase in phases:
        table.add_row(
            phase.name,
            f"{phase.seconds:g}",
            str(phase.num_offered),
            ", ".join(map(str, phase.num_passed)),
            str(sum(phase.num_passed)),
            f"{phase.of_limit:.3f}",
            f"{phase.median_us:g}",
            f"{phase.p99_us:g}",
        )
    Console().print(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.limits", description=__doc__)
    parser.add_argument("--address", help="a Ray cluster that runs; by default one of its own")
    parser.add_argument("--routers", type=int, default=4)
    parser.add_argument("--rpm", type=int, default=600, help="the key's requests per minute")
    parser.add_argument("--factor", type=float, default=10.0, help="offered requests per permitted one")
    parser.add_argument("--seconds", type=float, default=60.0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
