"""Hosts and links fail while clients stream: does an answer lose text, does one hang, what heals by itself?

Four hosts on this machine, in namespaces of Linux, with the installed package and no folder in common. Needs
root, and the programs `ip`, `nft` and `tc`. Prints a table and, last, one JSON line. The exit code is 1 if an
answer was cut, doubled, wrong or hung, or if the cluster did not heal.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time

from rich.console import Console

from benchmarks.chaos.report import ScenarioFailed, ScenarioResult, as_json, show
from benchmarks.hosts.faults import FAULTS, HOLD_S, measure
from benchmarks.hosts.world import World, hosts_world


def main() -> None:
    arguments = _arguments()
    with hosts_world() as world:
        results = [run(world, name, arguments.hold) for name in arguments.only or FAULTS]
    show(Console(), results)
    print(json.dumps(as_json(results)))
    sys.exit(any(result.report.broken() for result in results))


def run(world: World, name: str, hold_s: float) -> ScenarioResult:
    """One fault. It is reported at once as well, because a later one may end the run."""
    began_s = time.monotonic()
    try:
        report = world.from_clients(lambda: asyncio.run(measure(world, FAULTS[name], hold_s=hold_s)))
        result = ScenarioResult(name, report, time.monotonic() - began_s)
    except TimeoutError as error:
        result = ScenarioResult(name, ScenarioFailed(str(error)), time.monotonic() - began_s)
    print(json.dumps(as_json([result])), file=sys.stderr, flush=True)
    return result


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=FAULTS, help="this fault; may be repeated")
    parser.add_argument("--hold", type=float, default=HOLD_S, help="how long each fault lasts, in seconds")
    return parser.parse_args()


if __name__ == "__main__":
    main()
