"""10, 100 and 1,000 experts: what does their number cost in latency, memory and time for a change?

A meta with random weights (4 layers × 256) and a row for every expert decides. The experts answer in no time,
so the router, the meta and the network remain. One stream, eight tokens.

Shared: all experts are in one application, so only rows, entries and names grow. One cluster gets a route
table of each size in turn. Own: every expert has its own application, and all but one sleep (`min_replicas:
0`). There is a cluster for each size, because Serve builds every application in a process of its own. A
change is a PUT that adds one expert. It is effective when a question reaches the new expert (shared) or when
the router knows it (own). The start of a sleeping expert is not measured.
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

from benchmarks.chaos.replicas import MB, running
from benchmarks.many_experts.measurements import MODES, Measurements, write_plot
from benchmarks.many_experts.world import NAME, ExpertSet, own_apps, renumbered, shared_app, without
from benchmarks.relay.client import receive, whole
from benchmarks.serving import Cluster, served, wait_until_ready

NUM_TOKENS = 8
MAX_GROWTH = 1.5  # of the time of a routed answer, from the fewest to the most experts
TIMEOUT_S = 120.0
POLL_S = 0.1
CHAT = "/v1/chat/completions"


def main() -> None:
    arguments = _arguments()
    measurements: dict[str, list[Measurements]] = {}
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        expert_set = ExpertSet.create(Path(scratch), max(*arguments.shared, *arguments.own, 0))
        if arguments.shared:
            measurements["one application"] = _shared(expert_set, arguments)
        if arguments.own:
            measurements["an application each"] = [_own(expert_set, num, arguments) for num in arguments.own]
    missed = _report(measurements)
    if arguments.picture:
        Console().print(f"plot: {write_plot(measurements, arguments.picture)}")
    print(
        json.dumps(
            {
                "benchmark": "many_experts",
                **{kind: [measured.as_json() for measured in own] for kind, own in measurements.items()},
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
    parser.add_argument("--num-answers", type=int, default=30, help="of each mode in each round")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--picture", type=Path, metavar="FOLDER", help="write a plot to this folder")
    return parser.parse_args()


def _shared(expert_set: ExpertSet, arguments: argparse.Namespace) -> list[Measurements]:
    measurements = {num: Measurements(num) for num in arguments.shared}
    versions = itertools.count(2, 2)
    with served(lambda folder: shared_app(expert_set, folder, arguments.shared[0])) as cluster:
        for number in range(arguments.num_rounds + 1):
            for num, measured in measurements.items():
                deploy = _built(measured, partial(shared_app, expert_set, expert_set.folder, num))
                deploy["http_options"] = cluster.deploy["http_options"]
                new_expert = expert_set.names[num - 1]
                called = partial(_wait_until_called, cluster.url, expert_set, new_expert)
                took_s = _add_expert(cluster, deploy, new_expert, next(versions), called)
                answers = asyncio.run(_latencies(cluster.url, expert_set, new_expert, arguments.num_answers))
                if number:  # the first round warms everything up and measures the memory of each size
                    _record(measured, took_s, answers)
                else:
                    measured.rss_mb = _rss_mb(cluster)
    return list(measurements.values())


def _own(expert_set: ExpertSet, num: int, arguments: argparse.Namespace) -> Measurements:
    measured = Measurements(num)
    versions = itertools.count(2, 2)
    began_s = time.monotonic()
    with served(lambda folder: _built(measured, partial(own_apps, expert_set, folder, num))) as cluster:
        measured.start_s = time.monotonic() - began_s
        ready = partial(wait_until_ready, cluster.client, cluster.url, poll_s=POLL_S)
        for number in range(arguments.num_rounds + 1):
            took_s = _add_expert(cluster, cluster.deploy, expert_set.names[num - 1], next(versions), ready)
            answers = asyncio.run(
                _latencies(cluster.url, expert_set, expert_set.names[0], arguments.num_answers)
            )
            if number:
                _record(measured, took_s, answers)
        measured.rss_mb = _rss_mb(cluster)
    return measured


def _built(measured: Measurements, build: Any) -> dict[str, Any]:
    began_s = time.monotonic()
    deploy: dict[str, Any] = build()
    measured.build_s = time.monotonic() - began_s
    measured.deploy_kb = len(json.dumps(deploy)) / 1024
    return deploy


def _add_expert(
    cluster: Cluster,
    deploy: dict[str, Any],
    new_expert: str,
    table_version: int,
    wait_until_effective: Callable[[dict[str, Any]], None],
) -> tuple[float, float]:
    """Remove the expert and add it again. Returns the seconds until the PUT was accepted, and effective."""
    without_expert, with_expert = (
        without(deploy, new_expert, table_version),
        renumbered(deploy, table_version + 1),
    )
    cluster.client.put(without_expert)
    wait_until_ready(cluster.client, cluster.url, without_expert, poll_s=POLL_S)
    began_s = time.monotonic()
    cluster.client.put(with_expert)
    put_s = time.monotonic() - began_s
    wait_until_effective(with_expert)
    return put_s, time.monotonic() - began_s


def _wait_until_called(url: str, expert_set: ExpertSet, new_expert: str, deploy: dict[str, Any]) -> None:
    """Wait until a question reaches the new expert. Raises TimeoutError."""
    limit_s = time.monotonic() + TIMEOUT_S
    while asyncio.run(_final_writer(url, expert_set.question(new_expert))) != new_expert:
        if time.monotonic() > limit_s:
            raise TimeoutError(f"no question reached {new_expert} within {TIMEOUT_S:g} s")


async def _final_writer(url: str, question: str) -> str:
    answer = await whole(url, CHAT, {**_body(NAME, question), "max_tokens": 1, "routing": {"trace": True}})
    return str(answer["choices"][0]["routing"]["timing"]["calls"][-1]["model"])


async def _latencies(
    url: str, expert_set: ExpertSet, name: str, num_answers: int
) -> dict[str, list[tuple[float, float]]]:
    """By mode: the milliseconds of each answer until its first token and until its end."""
    found: dict[str, list[tuple[float, float]]] = {mode: [] for mode in MODES}
    for _ in range(num_answers):
        for mode, model in zip(MODES, (NAME, f"{NAME}/{name}"), strict=True):
            body = {**_body(model, expert_set.question(name)), "max_tokens": NUM_TOKENS, "stream": True}
            answer = await receive(url, CHAT, body)
            first_ms, whole_ms = ((at_s - answer.began_s) * 1000 for at_s in (answer.first_s, answer.ended_s))
            found[mode].append((first_ms, whole_ms))
    return found


def _body(model: str, question: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": question}], "temperature": 0}


def _record(
    measured: Measurements, took_s: tuple[float, float], answers: dict[str, list[tuple[float, float]]]
) -> None:
    measured.put_s.append(took_s[0])
    measured.effective_s.append(took_s[1])
    for mode, own in answers.items():
        measured.first_ms[mode] += [first_ms for first_ms, _ in own]
        measured.whole_ms[mode] += [whole_ms for _, whole_ms in own]


def _rss_mb(cluster: Cluster) -> dict[str, float]:
    pids = {r.app: r.pid for r in running(cluster.client) if r.app in ("router", "meta")}
    return {app: psutil.Process(pid).memory_info().rss / MB for app, pid in sorted(pids.items())}


def _report(measurements: Mapping[str, Sequence[Measurements]]) -> list[str]:
    """Print the results. Returns the targets that were missed."""
    missed = []
    for kind, own in measurements.items():
        Console().print(_table(kind, own))
        found = [measured.as_json() for measured in own]
        growth = found[-1]["whole_ms"]["routed"] / found[0]["whole_ms"]["routed"]
        Console().print(f"{kind}: a routed answer takes {growth:.2f} × as long as with the fewest experts")
        if growth > MAX_GROWTH:
            missed.append(
                f"{kind}: a routed answer takes {growth:.2f} × as long; at most {MAX_GROWTH:g} × is wanted"
            )
    return missed


def _table(kind: str, measurements: Sequence[Measurements]) -> Table:
    table = Table(
        "experts", *(str(measured.num_experts) for measured in measurements), title=f"Experts, {kind}"
    )
    found = [measured.as_json() for measured in measurements]
    for mode in MODES:
        table.add_row(f"{mode}: first token, ms", *(f"{row['first_ms'][mode]:.1f}" for row in found))
        table.add_row(f"{mode}: whole answer, ms", *(f"{row['whole_ms'][mode]:.1f}" for row in found))
    table.add_section()
    for app in found[0]["rss_mb"]:
        table.add_row(f"{app}: memory, MB", *(str(row["rss_mb"][app]) for row in found))
    table.add_section()
    for key, label in (
        ("put_s", "one expert more: PUT accepted, s"),
        ("effective_s", "one expert more: effective, s"),
        ("build_s", "cluster.yaml to deploy config, s"),
        ("deploy_kb", "deploy config, KB"),
        ("start_s", "cluster start, s"),
    ):
        table.add_row(label, *(str(row[key]) for row in found))
    return table


if __name__ == "__main__":
    main()
