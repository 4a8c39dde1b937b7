"""What grows how in a cluster, from ten experts to 500, on the real code of routers and without a network.

Two parts. Costs: CPU time and size of single parts at several sizes; an exponent of 1 is linear growth.
Simulation: routers with all their routes, queues and leases in virtual time, before simulated replicas; what
each process would do is counted and timed. Prints tables and one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from benchmarks.scale import costs
from benchmarks.scale.simulation import Size, simulate

Measure = Callable[[int], costs.Figures]
COSTS: tuple[tuple[str, Measure, tuple[int, ...]], ...] = (
    ("experts", costs.of_table, (10, 100, 500, 1000)),
    ("aliases", costs.of_aliases, (10, 100, 500, 1000)),
    ("replicas of one application", costs.of_affinity, (10, 50, 200, 400)),
    ("adapters of one pool", costs.of_replica_set, (10, 100, 500, 1000)),
    ("waiting calls of one key", partial(costs.of_queue, num_keys=1), (64, 256, 1024, 4096)),
    ("waiting calls of 100 keys", partial(costs.of_queue, num_keys=100), (64, 256, 1024, 4096)),
    ("waiting calls, a key each", partial(costs.of_queue, num_keys=10_000), (64, 256, 1024, 4096)),
    ("keys at 20 routers", lambda num_keys: costs.of_keeper(20, num_keys=num_keys), (10, 100, 400)),
    ("routers with 100 keys", partial(costs.of_keeper, num_keys=100), (5, 10, 20, 40)),
    ("turns", costs.of_turns, (1000, 20_000, 40_000)),
)
SIZES = (
    Size(num_routers=1, num_experts=10, num_replicas=4, num_streams=200),
    Size(num_routers=5, num_experts=100, num_replicas=40, num_streams=2000),
    Size(num_routers=20, num_experts=500, num_replicas=200, num_streams=10_000),
)


def main() -> None:
    arguments = _arguments()
    found: dict[str, list[costs.Figures]] = {}
    if not arguments.only_simulation:
        for name, measure, sizes in COSTS:
            found[name] = [{"size": size, **measure(size)} for size in sizes]
            Console().print(_growth_table(name, found[name]))
    simulated = [simulate(size) for size in SIZES[: arguments.sizes]]
    Console().print(_simulation_table(simulated))
    print(json.dumps({"benchmark": "scale", "costs": found, "simulated": simulated}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, default=len(SIZES), help="how many clusters are simulated")
    parser.add_argument("--only-simulation", action="store_true")
    return parser.parse_args()


def _growth_table(name: str, figures: Sequence[costs.Figures]) -> Table:
    table = Table(name, *(f"{each['size']:,.0f}" for each in figures), "last exponent")
    for what in list(figures[0])[1:]:
        values = [each[what] for each in figures]
        table.add_row(what, *(f"{value:,.3g}" for value in values), f"{_exponent(figures, what):.2f}")
    return table


def _exponent(figures: Sequence[costs.Figures], what: str) -> float:
    """Of the growth between the last two sizes: 1 is linear, 2 is quadratic."""
    before, last = figures[-2:]
    return math.log(last[what] / before[what]) / math.log(last["size"] / before["size"])


def _simulation_table(simulated: Sequence[costs.Figures]) -> Table:
    table = Table("", *(f"cluster {number}" for number in range(1, len(simulated) + 1)))
    for what in simulated[0]:
        table.add_row(what, *(f"{each[what]:,.3g}" for each in simulated))
    return table


if __name__ == "__main__":
    main()
