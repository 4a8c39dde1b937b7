"""Break a served cluster in every way that one machine allows: does a client ever lose an answer?

Serves the toy world's meta with two experts on a head and three worker nodes, all as
processes of this machine, and causes one fault after another while clients stream. Broken promises are
printed, and the exit code is then 1. The same cores serve, send requests and restart what was killed, so the
times are those of a fully loaded machine. Faults of networks, disks and GPUs are not tested.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.chaos.disconnecting_clients import disconnecting_clients
from benchmarks.chaos.drain import drain
from benchmarks.chaos.fuzz import fuzz
from benchmarks.chaos.hang import hang
from benchmarks.chaos.head import controller, gcs, head
from benchmarks.chaos.kills import kills
from benchmarks.chaos.overload import overload
from benchmarks.chaos.report import Report, ScenarioFailed, ScenarioResult, as_json, show
from benchmarks.chaos.soak import soak
from benchmarks.chaos.world import World, served
from benchmarks.toy.world import prepare

NUM_AT_ONCE = 32
NUM_NODES = 3
NUM_CLIENTS = 6
MAX_TOKENS = 64


@dataclass(frozen=True)
class Scale:
    """The length of each scenario."""

    num_questions: int  # for each expert, and for the meta
    num_kill_requests: int  # sent while replicas are killed
    kill_node_after_s: float
    num_disconnect_requests: int
    burst_s: float
    num_fuzz_requests: int
    num_soak_requests: int


FULL = Scale(12, 500, 20.0, 300, 30.0, 10_000, 20_000)
QUICK = Scale(4, 100, 8.0, 60, 8.0, 500, 1000)
Scenario = Callable[[World, Scale, int], Coroutine[Any, Any, Report]]

# `gcs` is last: the head that it leaves behind can only be stopped.
SCENARIOS: dict[str, Scenario] = {
    "disconnecting-clients": lambda world, scale, seed: disconnecting_clients(
        world, num_requests=scale.num_disconnect_requests, num_at_once=NUM_AT_ONCE, seed=seed
    ),
    "soak": lambda world, scale, seed: soak(
        world, num_requests=scale.num_soak_requests, num_at_once=16, seed=seed
    ),
    "fuzz": lambda world, scale, seed: fuzz(world, num_requests=scale.num_fuzz_requests, seed=seed),
    "hang-one-of-two": lambda world, scale, seed: hang(
        world, expert="roman", num_replicas=2, on_unavailable="wait", num_clients=NUM_CLIENTS
    ),
    "hang-the-only": lambda world, scale, seed: hang(
        world, expert="roman", num_replicas=1, on_unavailable="meta", num_clients=NUM_CLIENTS
    ),
    "drain": lambda world, scale, seed: drain(world),
    "kills": lambda world, scale, seed: kills(
        world,
        num_requests=scale.num_kill_requests,
        num_at_once=NUM_AT_ONCE,
        period_s=3.0,
        seed=seed,
        node_after_s=scale.kill_node_after_s,
    ),
    "controller": lambda world, scale, seed: controller(world, num_clients=NUM_CLIENTS),
    "gcs": lambda world, scale, seed: gcs(
        world, num_clients=NUM_CLIENTS, down_s=8.0, log_path=world.path.with_name("gcs.log")
    ),
}
# These run on one worker node. The router has priority over the models by its niceness, and the kernel may
# respect niceness only within one session, which is a node: set kernel.sched_autogroup_enabled to 0.
ON_ONE_NODE: dict[str, Scenario] = {
    "overload": lambda world, scale, seed: overload(
        world, burst_s=scale.burst_s, measure_s=scale.burst_s / 2
    ),
}
# These run in a cluster whose clients send to a worker node, because the head is killed.
WITHOUT_HEAD: dict[str, Scenario] = {
    "head": lambda world, scale, seed: head(
        world, num_clients=NUM_CLIENTS, down_s=8.0, log_path=world.path.with_name("head.log")
    ),
}
EVERYTHING = [*SCENARIOS, *ON_ONE_NODE, *WITHOUT_HEAD]


def main() -> None:
    arguments = _arguments()
    arguments.toy = arguments.toy.resolve()
    prepare(arguments.toy)
    scale = QUICK if arguments.quick else FULL
    names = arguments.only or EVERYTHING
    results = [
        result
        for scenarios in (SCENARIOS, ON_ONE_NODE, WITHOUT_HEAD)
        for result in _run_all(
            {name: scenarios[name] for name in scenarios if name in names}, scale, arguments
        )
    ]
    show(Console(), results)
    print(json.dumps(as_json(results)))
    sys.exit(any(result.report.broken() for result in results))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", type=Path, default=Path(".cache/toy"), help="the toy world's folder")
    parser.add_argument("--only", action="append", choices=EVERYTHING, help="this scenario; may be repeated")
    parser.add_argument("--seed", type=int, default=0, help="of all random choices")
    parser.add_argument("--quick", action="store_true", help="at most a fifth of all requests and times")
    return parser.parse_args()


def _run_all(
    scenarios: Mapping[str, Scenario], scale: Scale, arguments: argparse.Namespace
) -> list[ScenarioResult]:
    """Run the scenarios one after another in one cluster."""
    if not scenarios:
        return []
    outlives_head = scenarios.keys() <= WITHOUT_HEAD.keys()
    with (
        tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch,
        served(
            Path(scratch),
            arguments.toy,
            num_nodes=NUM_NODES if scenarios.keys() <= SCENARIOS.keys() else 1,
            num_questions=scale.num_questions,
            max_tokens=MAX_TOKENS,
            outlives_head=outlives_head,
        ) as world,
    ):
        return [_run(name, scenario(world, scale, arguments.seed)) for name, scenario in scenarios.items()]


def _run(name: str, running: Coroutine[Any, Any, Report]) -> ScenarioResult:
    began_s = time.monotonic()
    report: Report
    try:
        report = asyncio.run(running)
    except Exception as error:  # the results of the other scenarios must not be lost
        traceback.print_exc()
        report = ScenarioFailed(f"{type(error).__name__}: {error}")
    result = ScenarioResult(name, report, time.monotonic() - began_s)
    # Printed at once as well, because a later scenario may end the run.
    print(json.dumps(as_json([result])), file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    main()
