"""Break a served cluster in every way that one machine allows: does a client ever lose an answer?

Serves the demo's meta (`make demo` builds it) with two experts on a head and three worker nodes, all of them
processes of this machine, and lets one fault after the other happen while clients stream. What was promised
and not kept is printed, and makes the exit code 1. Two cores serve, ask and start again what was killed, so
times are of a machine with nothing to spare. Does not show faults of networks, disks or GPUs.
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

from benchmarks.faults.drain import drain
from benchmarks.faults.fuzzing import fuzzing
from benchmarks.faults.hang import hang
from benchmarks.faults.head import controller, gcs, head
from benchmarks.faults.kills import kills
from benchmarks.faults.leavers import leavers
from benchmarks.faults.overload import overload
from benchmarks.faults.report import Failed, Report, Shown, as_json, show
from benchmarks.faults.soak import soak
from benchmarks.faults.world import World, served
from examples.demo.run import prepare

NUM_AT_ONCE = 32
NUM_NODES = 3
NUM_CLIENTS = 6
MAX_TOKENS = 64


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    num_questions: int  # for each expert, and for the meta
    num_killed_at: int  # requests while replicas are killed
    node_after_s: float  # and a whole node
    num_leavers: int
    burst_s: float
    num_fuzzed: int
    num_soaked: int


FULL = Size(12, 500, 20.0, 300, 30.0, 10_000, 20_000)
QUICK = Size(4, 100, 8.0, 60, 8.0, 500, 1000)
Scenario = Callable[[World, Size, int], Coroutine[Any, Any, Report]]

# The last one leaves a head behind that only ends.
SCENARIOS: dict[str, Scenario] = {
    "leavers": lambda world, size, seed: leavers(
        world, num_leavers=size.num_leavers, num_at_once=NUM_AT_ONCE, seed=seed
    ),
    "soak": lambda world, size, seed: soak(world, num_requests=size.num_soaked, num_at_once=16, seed=seed),
    "fuzz": lambda world, size, seed: fuzzing(world, num_requests=size.num_fuzzed, seed=seed),
    "hang-one-of-two": lambda world, size, seed: hang(
        world, expert="roman", num_replicas=2, when_away="wait", num_clients=NUM_CLIENTS
    ),
    "hang-the-only": lambda world, size, seed: hang(
        world, expert="roman", num_replicas=1, when_away="meta", num_clients=NUM_CLIENTS
    ),
    "drain": lambda world, size, seed: drain(world),
    "kills": lambda world, size, seed: kills(
        world,
        num_requests=size.num_killed_at,
        num_at_once=NUM_AT_ONCE,
        period_s=3.0,
        seed=seed,
        node_after_s=size.node_after_s,
    ),
    "controller": lambda world, size, seed: controller(world, num_clients=NUM_CLIENTS),
    "gcs": lambda world, size, seed: gcs(
        world, num_clients=NUM_CLIENTS, away_s=8.0, log_path=world.path.with_name("gcs.log")
    ),
}
# In a world of one node: the kernel can only let those go first who relay where it does not share out the
# processors among nodes. Where it does so among sessions, set kernel.sched_autogroup_enabled to 0.
SINGLE: dict[str, Scenario] = {
    "overload": lambda world, size, seed: overload(world, burst_s=size.burst_s, measure_s=size.burst_s / 2),
}
# In a world of its own: its clients ask another node than the head.
HEADLESS: dict[str, Scenario] = {
    "head": lambda world, size, seed: head(
        world, num_clients=NUM_CLIENTS, away_s=8.0, log_path=world.path.with_name("head.log")
    ),
}
EVERYTHING = [*SCENARIOS, *SINGLE, *HEADLESS]


def main() -> None:
    arguments = _arguments()
    arguments.demo = arguments.demo.resolve()
    prepare(arguments.demo)
    size = QUICK if arguments.quick else FULL
    names = arguments.only or EVERYTHING
    shown = [
        one
        for scenarios in (SCENARIOS, SINGLE, HEADLESS)
        for one in _run_all({name: scenarios[name] for name in scenarios if name in names}, size, arguments)
    ]
    show(Console(), shown)
    print(json.dumps(as_json(shown)))
    sys.exit(any(one.report.broken() for one in shown))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path(".cache/demo"), help="where the demo's models are")
    parser.add_argument("--only", action="append", choices=EVERYTHING, help="again for more")
    parser.add_argument("--seed", type=int, default=0, help="of whom to kill, when to leave, what to send")
    parser.add_argument("--quick", action="store_true", help="a fifth of everything or less")
    return parser.parse_args()


def _run_all(scenarios: Mapping[str, Scenario], size: Size, arguments: argparse.Namespace) -> list[Shown]:
    """One after the other in one world."""
    if not scenarios:
        return []
    is_headless = scenarios.keys() <= HEADLESS.keys()
    with (
        tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch,
        served(
            Path(scratch),
            arguments.demo,
            num_nodes=NUM_NODES if scenarios.keys() <= SCENARIOS.keys() else 1,
            num_questions=size.num_questions,
            max_tokens=MAX_TOKENS,
            outlives_head=is_headless,
        ) as world,
    ):
        return [_run(name, scenario(world, size, arguments.seed)) for name, scenario in scenarios.items()]


def _run(name: str, running: Coroutine[Any, Any, Report]) -> Shown:
    began_s = time.monotonic()
    report: Report
    try:
        report = asyncio.run(running)
    except Exception as error:  # what the others showed is not to be lost with it
        traceback.print_exc()
        report = Failed(f"{type(error).__name__}: {error}")
    shown = Shown(name, report, time.monotonic() - began_s)
    # Told at once as well: a later one may be what ends the run.
    print(json.dumps(as_json([shown])), file=sys.stderr, flush=True)
    return shown


if __name__ == "__main__":
    main()
