"""Prefix affinity: chats that return to the replica that has them in its cache, against random replicas.

Two replicas of a vLLM model with random weights and a prefix cache are called through Serve handles, as a
router does. The rounds take turns between both kinds of routing. The time to first token is that of all turns
except the first of each chat. People think before they write (`--think-s`, the mean of a random pause);
programs (0) do not. Needs an environment with vLLM. The gain depends on the length of prompts and the speed
of the prefill.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.models import save_random_model
from cluster.config.cluster_config import load_config
from cluster.local.head import Head, start_head, stop_head
from cluster.local.ports import free_ports
from cluster.serve.apply import apply
from cluster.serve.connect import connect_to, num_logical_cpus

REPOSITORY = Path(__file__).resolve().parents[2]


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch)
        save_random_model(
            folder / "meta",
            hidden_size=arguments.hidden_size,
            num_layers=arguments.num_layers,
            max_model_len=2048,
        )
        config = load_config(_write_config(folder, arguments.num_replicas))
        head = start_head(folder / "state", num_cpus=num_logical_cpus(config))
        try:
            with connect_to(head) as client:
                apply(config, client)
            rounds = _chat(head, arguments)
        finally:
            stop_head(folder / "state")
    _report(rounds, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-chats", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--think-s", type=float, nargs="+", default=[0.0, 2.0])
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--num-replicas", type=int, default=2)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    parser.add_argument("--first-length", type=int, default=600, help="of the first question, in tokens")
    parser.add_argument("--later-length", type=int, default=150)
    parser.add_argument("--num-turns", type=int, default=6)
    parser.add_argument("--answer-length", type=int, default=32)
    return parser.parse_args()


def _write_config(folder: Path, num_replicas: int) -> Path:
    engine = {
        "kind": "vllm",
        "dtype": "float32",
        "cache_bytes": 2**29,
        "enforce_eager": True,
        "max_streams": 32,
    }
    scaling = {"min_replicas": num_replicas, "max_replicas": num_replicas}
    text = {
        "name": "bench",
        "meta": {"model": {"path": "meta"}, "engine": engine, "autoscaling": scaling},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    return path


def _chat(head: Head, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the chats in a new process, because Ray and Serve read their settings when they are imported."""
    address = Path(head.temp_dir, "ray_current_cluster").read_text(encoding="utf-8").strip()
    shape = ("num_turns", "first_length", "later_length", "answer_length")
    settings = {
        "num_chats": arguments.num_chats,
        "think_s": arguments.think_s,
        "num_rounds": arguments.num_rounds,
        "shape": {name: getattr(arguments, name) for name in shape},
    }
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.affinity.chats", address, json.dumps(settings)],
        cwd=REPOSITORY,
        env=os.environ
        | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": head.auth_token,
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        },
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]


def _report(rounds: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    table = Table(
        "chats", "thinking, s", "", "random", "affine", "ratio", title=f"{arguments.num_replicas} replicas"
    )
    results = []
    for case in itertools.product(arguments.num_chats, arguments.think_s):
        own = [r for r in rounds if (r["num_chats"], r["think_s"]) == case]
        random, affine = (_figures([r for r in own if r["routing"] == kind]) for kind in ("random", "affine"))
        for name in random:
            ratio = f"{affine[name] / random[name]:.2f}" if random[name] else "-"
            table.add_row(*map(str, case), name, f"{random[name]:.2f}", f"{affine[name]:.2f}", ratio)
        results.append({"num_chats": case[0], "think_s": case[1], "random": random, "affine": affine})
    Console().print(table)
    print(json.dumps({"benchmark": "affinity", **vars(arguments), "results": results}))


def _figures(rounds: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Medians over the rounds; of times, the median (or p90) over the later turns of a round first."""

    def median(name: str, decile: int = 5) -> float:
        deciles = (statistics.quantiles([turn[name] for turn in r["later_turns"]], n=10) for r in rounds)
        return float(statistics.median(of_round[decile - 1] for of_round in deciles))

    turns = [turn for r in rounds for turn in r["later_turns"]]

    def mean(name: str) -> float:
        return statistics.fmean(turn[name] for turn in turns)

    return {
        "ttft_ms": median("ttft_ms"),
        "ttft_p90_ms": median("ttft_ms", 9),
        "prefill_ms": median("prefill_ms"),
        "tokens_per_s": statistics.median(r["tokens_per_s"] for r in rounds),
        "stayed": mean("stayed"),
        "cached_share": mean("cached_share"),
    }


if __name__ == "__main__":
    main()
