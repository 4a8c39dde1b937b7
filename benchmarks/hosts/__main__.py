"""Hosts and links fail while clients stream: does an answer lose text, does one hang, what heals by itself?

Five hosts on this machine, in namespaces of Linux, with the installed package and no folder in common. Needs
root, the programs `ip`, `nft` and `tc`, and a C compiler for clocks that are wrong. Prints a table and, last,
one JSON line. The exit code is 1 if an answer was cut, doubled, wrong or hung, or the cluster did not heal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch

from rich.console import Console

from benchmarks.chaos.report import ScenarioFailed, ScenarioResult, as_json
from benchmarks.hosts.faults import CLOCK_FAULTS, FAULTS, Fault
from benchmarks.hosts.measurement import HOLD_S, NUM_STREAMS, measure
from benchmarks.hosts.table import fault_table
from benchmarks.hosts.world import World, hosts_world


def main() -> None:
    arguments = _arguments()
    results: list[ScenarioResult] = []
    for faults, own_clocks in ((FAULTS, False), (CLOCK_FAULTS, True)):
        if chosen := _chosen(faults, arguments.only):
            with hosts_world(own_clocks=own_clocks) as world:
                results += [run(world, name, fault, arguments) for name, fault in chosen.items()]
    Console(width=160).print(fault_table(results))
    print(json.dumps(as_json(results)))
    sys.exit(not results or any(result.report.broken() for result in results))


def run(world: World, name: str, fault: Fault, arguments: argparse.Namespace) -> ScenarioResult:
    """One fault. It is reported at once as well, because a later one may end the run."""
    began_s = time.monotonic()
    try:
        measurement = measure(world, fault, hold_s=arguments.hold, num_streams=arguments.streams)
        report = world.from_clients(lambda: asyncio.run(measurement))
        result = ScenarioResult(name, report, time.monotonic() - began_s)
    except TimeoutError as error:
        result = ScenarioResult(name, ScenarioFailed(str(error)), time.monotonic() - began_s)
    print(json.dumps(as_json([result])), file=sys.stderr, flush=True)
    return result


def _chosen(faults: Mapping[str, Fault], patterns: Sequence[str]) -> dict[str, Fault]:
    return {name: fault for name, fault in faults.items() if any(_matches(name, patterns))}


def _matches(name: str, patterns: Sequence[str]) -> Iterator[bool]:
    return (fnmatch(name, pattern) for pattern in patterns or ["*"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n  ".join(["The faults:", *FAULTS, *CLOCK_FAULTS]).replace("%", "%%"),
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="faults that match, such as '*: cut'; may be repeated",
    )
    parser.add_argument("--hold", type=float, default=HOLD_S, help="how long each fault lasts, in seconds")
    parser.add_argument(
        "--streams", type=int, default=NUM_STREAMS, help="how many answers each fault has at least"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
