"""Ten, a hundred, a thousand experts: what does their number cost a request, the processes and a change?

A meta with random weights (4 layers × 256) whose head has a row for every expert decides; who answers takes
no time, so that what is left is the router's, the meta's and the wire's. One stream, eight tokens.

Shared: all experts stand in one application, so that their number is that of rows, entries and names alone;
one cluster, whose table takes on each size in turn. Own: an application for each expert, all of which sleep
but one (`min_replicas: 0`); a cluster for each size, for Serve builds every application in a process of its
own. A change is a PUT with one expert more; it is seen once a question goes to the newcomer (shared), or the
router has it (own). Does not show what loads and runs when a sleeping expert is called.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.crowding.size import WAYS, Size, write_picture
from benchmarks.crowding.world import NAME, Crowd, own_apps, renumbered, shared_app, without
from benchmarks.faults.replicas import MB, running
from benchmarks.relaying.client import receive, whole
from benchmarks.serving import Cluster, served, wait_until_open

NUM_TOKENS = 8
MAX_GROWTH = 1.5  # of a routed answer, from the least to the most experts
LIMIT_S = 120.0
POLL_S = 0.1
CHAT = "/v1/chat/completions"


def main() -> None:
    arguments = _arguments()
    sizes: dict[str, list[Size]] = {}
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        crowd = Crowd.made(Path(scratch), max(*arguments.shared, *arguments.own, 0))
        if arguments.shared:
            sizes["one application"] = _shared(crowd, arguments)
        if arguments.own:
            sizes["an application each"] = [_own(crowd, num, arguments) for num in arguments.own]
    missed = _report(sizes)
    if arguments.picture:
        Console().print(f"picture: {write_picture(sizes, arguments.picture)}")
    print(
        json.dumps(
            {
                "benchmark": "many_experts",
                **{kind: [size.as_json() for size in some] for kind, some in sizes.items()},
            }
        )
    )
    if missed:
        sys.exit("; ".join(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shared", type=int, nargs="*", default=[10, 100, 1000], metavar="NUM")
    parser.add_argument("--own", type=int, nargs="*", default=[10, 100], metavar="NUM")
    parser.add_argument("--num-answers", type=int, default=30, help="of each kind in each round")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="draw it into this folder")
    return parser.parse_args()


def _shared(crowd: Crowd, arguments: argparse.Namespace) -> list[Size]:
    sizes = {num: Size(num) for num in arguments.shared}
    epochs = itertools.count(2, 2)
    with served(lambda folder: shared_app(crowd, folder, arguments.shared[0])) as cluster:
        for number in range(arguments.num_rounds + 1):
            for num, size in sizes.items():
                deploy = _built(size, partial(shared_app, crowd, crowd.folder, num))
                deploy["http_options"] = cluster.deploy["http_options"]
                newcomer = crowd.names[num - 1]
                reached = partial(_wait_until_reached, cluster.url, crowd, newcomer)
                took_s = _one_more(cluster, deploy, newcomer, next(epochs), reached)
                answers = asyncio.run(_answers(cluster.url, crowd, newcomer, arguments.num_answers))
                if number:  # the first round warms everything, and finds the memory of each size
                    _keep(size, took_s, answers)
                else:
                    size.rss_mb = _rss_mb(cluster)
    return list(sizes.values())


def _own(crowd: Crowd, num: int, arguments: argparse.Namespace) -> Size:
    size = Size(num)
    epochs = itertools.count(2, 2)
    began_s = time.monotonic()
    with served(lambda folder: _built(size, partial(own_apps, crowd, folder, num))) as cluster:
        size.start_s = time.monotonic() - began_s
        opened = partial(wait_until_open, cluster.client, cluster.url, poll_s=POLL_S)
        for number in range(arguments.num_rounds + 1):
            took_s = _one_more(cluster, cluster.deploy, crowd.names[num - 1], next(epochs), opened)
            answers = asyncio.run(_answers(cluster.url, crowd, crowd.names[0], arguments.num_answers))
            if number:
                _keep(size, took_s, answers)
        size.rss_mb = _rss_mb(cluster)
    return size


def _built(size: Size, build: Any) -> dict[str, Any]:
    began_s = time.monotonic()
    deploy: dict[str, Any] = build()
    size.build_s = time.monotonic() - began_s
    size.deploy_kb = len(json.dumps(deploy)) / 1024
    return deploy


def _one_more(
    cluster: Cluster,
    deploy: dict[str, Any],
    newcomer: str,
    epoch: int,
    until_seen: Callable[[dict[str, Any]], None],
) -> tuple[float, float]:
    """Seconds from the PUT that brings the newcomer back until it is accepted, and until that is seen."""
    less, all_of_them = without(deploy, newcomer, epoch), renumbered(deploy, epoch + 1)
    cluster.client.put(less)
    wait_until_open(cluster.client, cluster.url, less, poll_s=POLL_S)
    began_s = time.monotonic()
    cluster.client.put(all_of_them)
    put_s = time.monotonic() - began_s
    until_seen(all_of_them)
    return put_s, time.monotonic() - began_s


def _wait_until_reached(url: str, crowd: Crowd, newcomer: str, deploy: dict[str, Any]) -> None:
    """Until a question goes to it. Raises TimeoutError."""
    limit_s = time.monotonic() + LIMIT_S
    while asyncio.run(_writer(url, crowd.question(newcomer))) != newcomer:
        if time.monotonic() > limit_s:
            raise TimeoutError(f"no question goes to {newcomer} after {LIMIT_S:g} s")


async def _writer(url: str, question: str) -> str:
    answer = await whole(url, CHAT, {**_body(NAME, question), "max_tokens": 1, "routing": {"trace": True}})
    return str(answer["choices"][0]["routing"]["timing"]["calls"][-1]["model"])


async def _answers(
    url: str, crowd: Crowd, name: str, num_answers: int
) -> dict[str, list[tuple[float, float]]]:
    """By way: of each answer, milliseconds until the first token and until the end."""
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for _ in range(num_answers):
        for way, model in zip(WAYS, (NAME, f"{NAME}/{name}"), strict=True):
            body = {**_body(model, crowd.question(name)), "max_tokens": NUM_TOKENS, "stream": True}
            one = await receive(url, CHAT, body)
            found[way].append((1000 * (one.first_s - one.began_s), 1000 * (one.ended_s - one.began_s)))
    return found


def _body(model: str, question: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0}


def _keep(size: Size, took_s: tuple[float, float], answers: dict[str, list[tuple[float, float]]]) -> None:
    size.put_s.append(took_s[0])
    size.seen_s.append(took_s[1])
    for way, some in answers.items():
        size.first_ms[way] += [first_ms for first_ms, _ in some]
        size.whole_ms[way] += [whole_ms for _, whole_ms in some]


def _rss_mb(cluster: Cluster) -> dict[str, float]:
    pids = {one.app: one.pid for one in running(cluster.client) if one.app in ("router", "meta")}
    return {app: psutil.Process(pid).memory_info().rss / MB for app, pid in sorted(pids.items())}


def _report(sizes: Mapping[str, Sequence[Size]]) -> list[str]:
    """Returns what is not as wanted."""
    missed = []
    for kind, some in sizes.items():
        Console().print(_table(kind, some))
        found = [size.as_json() for size in some]
        growth = found[-1]["whole_ms"]["routed"] / found[0]["whole_ms"]["routed"]
        Console().print(
            f"{kind}: a routed answer takes {growth:.2f} × the time of that with the fewest experts"
        )
        if growth > MAX_GROWTH:
            missed.append(
                f"{kind}: a routed answer takes {growth:.2f} × as long, wanted {MAX_GROWTH:g} at most"
            )
    return missed


def _table(kind: str, sizes: Sequence[Size]) -> Table:
    table = Table("experts", *(str(size.num_experts) for size in sizes), title=f"Experts, {kind}")
    found = [size.as_json() for size in sizes]
    for way in WAYS:
        table.add_row(f"{way}: first token, ms", *(f"{one['first_ms'][way]:.1f}" for one in found))
        table.add_row(f"{way}: whole answer, ms", *(f"{one['whole_ms'][way]:.1f}" for one in found))
    table.add_section()
    for app in found[0]["rss_mb"]:
        table.add_row(f"{app}: memory, MB", *(str(one["rss_mb"][app]) for one in found))
    table.add_section()
    for what, words in (
        ("put_s", "one more: PUT accepted, s"),
        ("seen_s", "one more: seen, s"),
        ("build_s", "cluster.yaml read, s"),
        ("deploy_kb", "deploy config, KB"),
        ("start_s", "started from nothing, s"),
    ):
        table.add_row(words, *(str(one[what]) for one in found))
    return table


if __name__ == "__main__":
    main()
