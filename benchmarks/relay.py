"""What our layer costs a stream: a model that thinks no time, behind the router and behind bare Serve.

One replica each of the model, of the router, and of the least application that can relay a handle's stream
over HTTP; asked in turn. Tokens: each of many streams makes one every few milliseconds, and what comes that
fast is sent in bunches. Messages: how many those were; streams are long, for they all begin at once. Delay:
from the making of a message until a client has it, one stream at an easy pace. First: until the first of them
is there. Does not show a model's own time.
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

from benchmarks.relaying.client import Received, receive
from benchmarks.serving import served
from cluster.config import load_config
from cluster.ports import free_ports
from cluster.serve_config import build_serve_config

NAME = "relayed"
WORDS = "measure how long this takes"
NUM_TOKENS = {"tokens": 6000, "delay": 1000}
WANTED_TOKENS_PER_S = 10_000
WANTED_ADDED_MS = 0.3


@dataclass(frozen=True)
class Way:
    """A way to the model: how it is asked for so many tokens."""

    name: str
    path: str

    def body(self, num_tokens: int) -> dict[str, Any]:
        text: dict[str, Any] = {"model": NAME, "prompt": WORDS, "max_tokens": num_tokens, "stream": True}
        return text if self.path.startswith("/bare") else {**text, "routing": {}}


WAYS = (Way("bare Serve", "/bare"), Way("router", "/v1/completions"))


@dataclass(frozen=True)
class Round:
    tokens_per_s: float
    messages_per_s: float
    delay_ms: float  # medians
    first_ms: float


Figures = dict[str, float]


def main() -> None:
    arguments = _arguments()
    found = _measure(arguments)
    missed = _missed(found)
    _report(found, missed, arguments)
    sys.exit(bool(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, default=32)
    parser.add_argument("--num-rounds", type=int, default=5)
    parser.add_argument("--step-ms", type=float, default=2.0, help="per token of each stream")
    return parser.parse_args()


def _measure(arguments: argparse.Namespace) -> dict[str, Figures]:
    """By way, the medians of everything."""
    found: dict[str, dict[str, list[Round]]] = {}
    for kind, step_s, num_streams in (
        ("tokens", arguments.step_ms / 1000, arguments.num_streams),
        ("delay", 0.01, 1),
    ):
        with served(partial(_deploy_config, step_s=step_s)) as cluster:
            found[kind] = asyncio.run(
                _rounds(cluster.url, num_streams, NUM_TOKENS[kind], arguments.num_rounds)
            )
    return {
        way.name: {
            "tokens_per_s": _median(found["tokens"][way.name], "tokens_per_s"),
            "messages_per_s": _median(found["tokens"][way.name], "messages_per_s"),
            "delay_ms": _median(found["delay"][way.name], "delay_ms"),
            "first_ms": _median(found["delay"][way.name], "first_ms"),
        }
        for way in WAYS
    }


def _deploy_config(folder: Path, step_s: float) -> dict[str, Any]:
    """As for a cluster with a meta alone, but for who it is."""
    text = {"name": NAME, "meta": {"model": {"path": "."}}, "http": {"port": free_ports(1)[0]}}
    (folder / "config.json").write_text("{}", encoding="utf-8")  # all that is looked at before a model loads
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text), encoding="utf-8")
    deploy = build_serve_config(load_config(path))
    meta = next(app for app in deploy["applications"] if app["name"] == "meta")
    meta |= {"import_path": "benchmarks.relaying.instant:build_instant", "args": {"step_s": step_s}}
    meta["deployments"][0]["max_ongoing_requests"] = 256
    bare = {
        "name": "bare",
        "route_prefix": "/bare",
        "import_path": "benchmarks.relaying.instant:build_bare",
        "args": {},
        "deployments": [],
    }
    deploy["applications"].append(bare)
    return deploy


async def _rounds(url: str, num_streams: int, num_tokens: int, num_rounds: int) -> dict[str, list[Round]]:
    """By way; the first round of each is left out."""
    rounds: dict[str, list[Round]] = {way.name: [] for way in WAYS}
    for _ in range(num_rounds + 1):
        for way in WAYS:
            asked = (receive(url, way.path, way.body(num_tokens)) for _ in range(num_streams))
            rounds[way.name].append(_round(await asyncio.gather(*asked)))
    return {name: some[1:] for name, some in rounds.items()}


def _round(streams: list[Received]) -> Round:
    took_s = max(one.ended_s for one in streams) - min(one.began_s for one in streams)
    delays_ms = [delay for one in streams for delay in one.delays_ms]
    firsts_ms = [1000 * (one.first_s - one.began_s) for one in streams]
    num_tokens = sum(one.num_tokens for one in streams)
    num_messages = sum(one.num_messages for one in streams)
    return Round(
        num_tokens / took_s, num_messages / took_s, statistics.median(delays_ms), statistics.median(firsts_ms)
    )


def _missed(found: dict[str, Figures]) -> list[str]:
    """Which of the wanted bounds do not hold."""
    bare, routed = (found[way.name] for way in WAYS)
    missed = []
    if routed["tokens_per_s"] < WANTED_TOKENS_PER_S:
        missed.append(f"fewer than {WANTED_TOKENS_PER_S} tokens a second")
    if routed["delay_ms"] - bare["delay_ms"] > WANTED_ADDED_MS:
        missed.append(f"more than {WANTED_ADDED_MS} ms added to a message")
    return missed


def _report(found: dict[str, Figures], missed: list[str], arguments: argparse.Namespace) -> None:
    bare, routed = (found[way.name] for way in WAYS)
    table = Table("", *(way.name for way in WAYS), "ratio", title=f"{arguments.num_streams} streams")
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


def _median(rounds: list[Round], what: str) -> float:
    return float(statistics.median(getattr(one, what) for one in rounds))


if __name__ == "__main__":
    main()
