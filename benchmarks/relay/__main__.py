"""The overhead of the router per stream, with a model that takes no time, compared with a bare Serve app.

There is one replica of the model, of the router, and of the smallest Serve app that relays a handle's stream
over HTTP. They are called in turn. `tokens_per_s`: each of many streams makes a token every few milliseconds;
tokens that come this fast are coalesced. `messages_per_s`: the messages after that. `delay_ms`: from the
creation of a message until the client has it, for one slow stream. `first_ms`: until the first message. Time
in a model is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.relay.client import Received, receive
from benchmarks.serving import served
from cluster.config.cluster_config import load_config
from cluster.local.ports import free_ports
from cluster.serve.deploy_config import build_serve_config

NAME = "relayed"
WORDS = "measure how long this takes"
NUM_TOKENS = {"tokens": 6000, "delay": 1000}
MIN_TOKENS_PER_S = 10_000
MAX_ADDED_MS = 0.3


@dataclass(frozen=True)
class Endpoint:
    """An HTTP endpoint in front of the model."""

    name: str
    path: str

    def body(self, num_tokens: int) -> dict[str, Any]:
        text: dict[str, Any] = {"model": NAME, "prompt": WORDS, "max_tokens": num_tokens, "stream": True}
        return text if self.path.startswith("/bare") else {**text, "routing": {}}


ENDPOINTS = (Endpoint("bare Serve", "/bare"), Endpoint("router", "/v1/completions"))


@dataclass(frozen=True)
class Round:
    tokens_per_s: float
    messages_per_s: float
    delay_ms: float  # medians
    first_ms: float


Figures = dict[str, float]


def main() -> None:
    arguments = _arguments()
    results = _measure(arguments)
    missed = _missed(results)
    _report(results, missed, arguments)
    sys.exit(bool(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, default=32)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=2.0, help="time per token of each stream")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> dict[str, Figures]:
    """By endpoint, the medians of all figures."""
    results: dict[str, dict[str, list[Round]]] = {}
    for kind, step_s, num_streams in (
        ("tokens", arguments.step_ms / 1000, arguments.num_streams),
        ("delay", 0.01, 1),
    ):
        with served(partial(_deploy_config, step_s=step_s)) as cluster:
            results[kind] = asyncio.run(
                _rounds(cluster.url, num_streams, NUM_TOKENS[kind], arguments.num_rounds)
            )
    return {
        endpoint.name: {
            "tokens_per_s": _median(results["tokens"][endpoint.name], "tokens_per_s"),
            "messages_per_s": _median(results["tokens"][endpoint.name], "messages_per_s"),
            "delay_ms": _median(results["delay"][endpoint.name], "delay_ms"),
            "first_ms": _median(results["delay"][endpoint.name], "first_ms"),
        }
        for endpoint in ENDPOINTS
    }


def _deploy_config(folder: Path, step_s: float) -> dict[str, Any]:
    """A cluster with only a meta, which is replaced by the model that takes no time."""
    text = {"name": NAME, "meta": {"model": {"path": "."}}, "http": {"port": free_ports(1)[0]}}
    (folder / "config.json").write_text(
        "{}", encoding="utf-8"
    )  # the only file that is read before a model loads
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    deploy = build_serve_config(load_config(path))
    meta = next(app for app in deploy["applications"] if app["name"] == "meta")
    meta |= {"import_path": "benchmarks.relay.instant:build_instant", "args": {"step_s": step_s}}
    meta["deployments"][0]["max_ongoing_requests"] = 256
    bare = {
        "name": "bare",
        "route_prefix": "/bare",
        "import_path": "benchmarks.relay.instant:build_bare",
        "args": {},
        "deployments": [],
    }
    deploy["applications"].append(bare)
    return deploy


async def _rounds(url: str, num_streams: int, num_tokens: int, num_rounds: int) -> dict[str, list[Round]]:
    """The rounds by endpoint, without the first, which warms up."""
    rounds: dict[str, list[Round]] = {endpoint.name: [] for endpoint in ENDPOINTS}
    for _ in range(num_rounds + 1):
        for endpoint in ENDPOINTS:
            calls = (receive(url, endpoint.path, endpoint.body(num_tokens)) for _ in range(num_streams))
            rounds[endpoint.name].append(_round(await asyncio.gather(*calls)))
    return {name: measured[1:] for name, measured in rounds.items()}


def _round(streams: list[Received]) -> Round:
    took_s = max(s.ended_s for s in streams) - min(s.began_s for s in streams)
    delays_ms = [delay_ms for stream in streams for delay_ms in stream.delays_ms]
    firsts_ms = [1000 * (stream.first_s - stream.began_s) for stream in streams]
    num_tokens = sum(stream.num_tokens for stream in streams)
    num_messages = sum(stream.num_messages for stream in streams)
    return Round(
        num_tokens / took_s, num_messages / took_s, statistics.median(delays_ms), statistics.median(firsts_ms)
    )


def _missed(results: dict[str, Figures]) -> list[str]:
    """The targets that were missed."""
    bare, routed = (results[endpoint.name] for endpoint in ENDPOINTS)
    missed = []
    if routed["tokens_per_s"] < MIN_TOKENS_PER_S:
        missed.append(f"fewer than {MIN_TOKENS_PER_S:,} tokens/s")
    if routed["delay_ms"] - bare["delay_ms"] > MAX_ADDED_MS:
        missed.append(f"more than {MAX_ADDED_MS} ms added to a message")
    return missed


def _report(results: dict[str, Figures], missed: list[str], arguments: argparse.Namespace) -> None:
    bare, routed = (results[endpoint.name] for endpoint in ENDPOINTS)
    table = Table(
        "", *(endpoint.name for endpoint in ENDPOINTS), "ratio", title=f"{arguments.num_streams} streams"
    )
    for key in bare:
        table.add_row(key, f"{bare[key]:,.2f}", f"{routed[key]:,.2f}", f"{routed[key] / bare[key]:.2f}")
    console = Console()
    console.print(table)
    for text in missed:
        console.print(f"missed: {text}")
    print(
        json.dumps(
            {
                "benchmark": "relay",
                "num_streams": arguments.num_streams,
                "num_rounds": arguments.num_rounds,
                "bare": bare,
                "router": routed,
                "added_delay_ms": routed["delay_ms"] - bare["delay_ms"],
                "missed": missed,
            }
        )
    )


def _median(rounds: list[Round], name: str) -> float:
    return float(statistics.median(getattr(measured, name) for measured in rounds))


if __name__ == "__main__":
    main()
