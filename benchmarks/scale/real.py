"""Thousands of streams through one real router, beside the simulation of the same cluster.

`python -m benchmarks.scale.real`: a meta that hands over at once and an expert, both without a model and at a
given pace, behind one router on Ray Serve; all streams of a size are open at once, over HTTP. The simulation
runs the same router code in virtual time. `CPU of an answer` is that of the router's process, without what
it needs while idle; in the real run it contains HTTP, Serve and the messages of Ray. The real cluster lies on
the simulated curve if this difference and the durations are the same at every size. Prints a table and, last,
one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.relay.client import Received, receive
from benchmarks.scale.costs import Figures
from benchmarks.scale.simulation import CPU_OF_ANSWER, LAST_ANSWER, NUM_TOKENS, Size, simulate
from benchmarks.serving import Cluster, served, weightless_deploy_config
from cluster.serve.app_names import ROUTER_APP
from cluster.serve.app_status import status
from experts.token import ExpertToken

NAME, EXPERT = "paced", "writer"
MAX_STREAMS = 4096
IDLE_S = 10.0
HTTP_CPU = "of it HTTP, Serve and Ray"
FIRST_TOKEN, WHOLE_ANSWER = "first token, s", "whole answer, s"
MAX_APART = 0.2  # of the differences in CPU, between the sizes


def main() -> None:
    arguments = _arguments()
    sizes = [_size(num, arguments) for num in arguments.num_streams]
    simulate(sizes[0])  # warms up
    simulated = [simulate(size) for size in sizes]
    with served(partial(deploy_config, step_s=arguments.step_s)) as cluster:
        real = [_real(cluster, size) for size in sizes]
    for measured, expected in zip(real, simulated, strict=True):
        measured[HTTP_CPU] = measured[CPU_OF_ANSWER] - expected[CPU_OF_ANSWER]
    missed = _missed(sizes, real, simulated)
    Console().print(_table(sizes, real, simulated))
    print(json.dumps({"benchmark": "scale.real", "real": real, "simulated": simulated, "missed": missed}))
    sys.exit(bool(missed))


def deploy_config(folder: Path, step_s: float) -> dict[str, Any]:
    """Of a meta and an expert that write at this pace."""
    ExpertToken(EXPERT, torch.zeros(8), 0.0, "meta", "none").save(folder / "writer.safetensors")
    model = {"model": {"path": "."}, "engine": {"kind": "vllm", "max_streams": MAX_STREAMS}}
    text = {
        "name": NAME,
        "meta": model,
        "experts": {EXPERT: {**model, "token": "writer.safetensors"}},
        "router": {"limits": {"max_requests": MAX_STREAMS}},
    }
    deploy = weightless_deploy_config(folder, text)
    for app in deploy["applications"]:
        if app["name"] != ROUTER_APP:
            app |= {"import_path": "benchmarks.scale.paced:build_paced", "args": {"step_s": step_s}}
    return deploy


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, nargs="+", default=[250, 500, 1000, 2000])
    parser.add_argument("--step-s", type=float, default=5.0, help="time per token of each stream")
    parser.add_argument("--arrivals-s", type=float, default=40.0, help="all streams begin within this time")
    return parser.parse_args()


def _size(num_streams: int, arguments: argparse.Namespace) -> Size:
    pace = {"arrivals_s": arguments.arrivals_s, "step_s": arguments.step_s, "slots": MAX_STREAMS}
    return Size(num_routers=1, num_experts=1, num_replicas=2, num_streams=num_streams, **pace)


def _real(cluster: Cluster, size: Size) -> Figures:
    [router] = [
        psutil.Process(replica.pid)
        for app in status(cluster.client)
        if app.name == ROUTER_APP
        for replica in app.replicas
    ]
    return asyncio.run(_measured(cluster.url, size, router))


async def _measured(url: str, size: Size, router: psutil.Process) -> Figures:
    clock = asyncio.get_running_loop().time
    before_s = _cpu_s(router)
    await asyncio.sleep(IDLE_S)
    idle = (_cpu_s(router) - before_s) / IDLE_S

    before_s, began_s = _cpu_s(router), clock()
    answers = await asyncio.gather(*(_answer(url, size, number) for number in range(size.num_streams)))
    took_s = clock() - began_s
    spent_s = _cpu_s(router) - before_s - idle * took_s
    return {
        "whole answers": sum(answer.num_tokens == NUM_TOKENS for answer in answers),
        "open at once": _max_open(answers),
        FIRST_TOKEN: statistics.median(answer.first_s - answer.began_s for answer in answers),
        WHOLE_ANSWER: statistics.median(answer.ended_s - answer.began_s for answer in answers),
        LAST_ANSWER: took_s - size.arrivals_s,
        CPU_OF_ANSWER: 1e3 * spent_s / size.num_streams,
    }


async def _answer(url: str, size: Size, number: int) -> Received:
    await asyncio.sleep(size.arrivals_s * number / size.num_streams)
    body = {
        "model": NAME,
        "prompt": f"question {number}",
        "max_tokens": NUM_TOKENS,
        "stream": True,
        "routing": {},
    }
    return await receive(url, "/v1/completions", body)


def _max_open(answers: list[Received]) -> int:
    changes = sorted([(a.began_s, 1) for a in answers] + [(a.ended_s, -1) for a in answers])
    most = now = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _missed(sizes: list[Size], real: list[Figures], simulated: list[Figures]) -> list[str]:
    apart = _spread([measured[HTTP_CPU] for measured in real])
    missed = [f"{HTTP_CPU}: {apart:.2f} apart"] if apart > MAX_APART else []
    for size, measured, expected in zip(sizes, real, simulated, strict=True):
        if measured["whole answers"] < size.num_streams:
            missed.append(f"{size.num_streams} streams: {measured['whole answers']} answers are whole")
        late_s = measured[LAST_ANSWER] - expected[LAST_ANSWER]
        if late_s > size.step_s / 2:
            missed.append(f"{size.num_streams} streams: the last answer is {late_s:.1f} s late")
    return missed


def _spread(values: list[float]) -> float:
    """How far the values are apart, as a share of their median."""
    return (max(values) - min(values)) / statistics.median(values)


def _table(sizes: list[Size], real: list[Figures], simulated: list[Figures]) -> Table:
    table = Table("streams", *(f"{size.num_streams:,}" for size in sizes))
    for what in real[0]:
        table.add_row(what, *(f"{each[what]:,.4g}" for each in real))
        if what in simulated[0]:
            table.add_row(f"{what}: simulated", *(f"{each[what]:,.4g}" for each in simulated))
    return table


if __name__ == "__main__":
    main()
