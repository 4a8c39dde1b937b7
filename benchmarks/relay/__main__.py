"""The overhead of the router per stream, with a model that takes no time, compared with a bare Serve app.

There is one replica of the model, of the router, and of the smallest Serve app that relays a handle's stream
over HTTP; and two more routers, of which one traces 1 % of the requests and logs its decisions. They are
called in turn. Those two are compared with each other, because applications that are the same differ too.
`tokens_per_s`: each of many streams makes a token every few milliseconds; tokens that come this fast
are coalesced. `messages_per_s`: the messages after that. `delay_ms`: from the creation of a message until the
client has it, for one slow stream. `first_ms`: until the first message. `requests_per_s`: of short answers,
one after another on each of many streams. Time in a model is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.relay.client import Received, receive
from benchmarks.relay.deploy import (
    NAME,
    OBSERVED_PREFIX,
    UNOBSERVED_PREFIX,
    deploy_config,
    span_receiver,
)
from benchmarks.serving import served

WORDS = "measure how long this takes"
REQUESTS_PER_STREAM = 20
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


BARE = Endpoint("bare Serve", "/bare")
ROUTER = Endpoint("router", "/v1/completions")
UNOBSERVED = Endpoint("second router", f"{UNOBSERVED_PREFIX}{ROUTER.path}")
OBSERVED = Endpoint("second router, observed", f"{OBSERVED_PREFIX}{ROUTER.path}")
ENDPOINTS = (BARE, ROUTER, UNOBSERVED, OBSERVED)


@dataclass(frozen=True)
class Round:
    tokens_per_s: float
    messages_per_s: float
    requests_per_s: float
    delay_ms: float  # medians
    first_ms: float


@dataclass(frozen=True)
class Part:
    """Measures some `figures`: each stream asks for `num_tokens`, `num_requests` times."""

    figures: tuple[str, ...]
    step_s: float  # time per token
    num_streams: int
    num_tokens: int
    num_requests: int = 1


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
    streams = arguments.num_streams
    fast_s = arguments.step_ms / 1000
    parts = (
        Part(("tokens_per_s", "messages_per_s"), fast_s, streams, 6000),
        Part(("delay_ms", "first_ms"), 0.01, 1, 1000),
        Part(("requests_per_s",), fast_s, streams, 8, REQUESTS_PER_STREAM),
    )
    figures: dict[str, Figures] = {endpoint.name: {} for endpoint in ENDPOINTS}
    for part in parts:
        with (
            span_receiver() as span_url,
            served(partial(deploy_config, step_s=part.step_s, span_url=span_url)) as cluster,
        ):
            rounds = asyncio.run(_rounds(cluster.url, part, arguments.num_rounds))
        for endpoint, measured in rounds.items():
            figures[endpoint] |= {name: _median(measured, name) for name in part.figures}
    return figures


async def _rounds(url: str, part: Part, num_rounds: int) -> dict[str, list[Round]]:
    """The rounds by endpoint, without the first, which warms up."""
    rounds: dict[str, list[Round]] = {endpoint.name: [] for endpoint in ENDPOINTS}
    for _ in range(num_rounds + 1):
        for endpoint in ENDPOINTS:
            streams = (_stream(url, endpoint, part) for _ in range(part.num_streams))
            rounds[endpoint.name].append(_round(list(chain(*await asyncio.gather(*streams)))))
    return {name: measured[1:] for name, measured in rounds.items()}


async def _stream(url: str, endpoint: Endpoint, part: Part) -> list[Received]:
    body = endpoint.body(part.num_tokens)
    return [await receive(url, endpoint.path, body) for _ in range(part.num_requests)]


def _round(streams: list[Received]) -> Round:
    took_s = max(s.ended_s for s in streams) - min(s.began_s for s in streams)
    delays_ms = [delay_ms for stream in streams for delay_ms in stream.delays_ms]
    firsts_ms = [1000 * (stream.first_s - stream.began_s) for stream in streams]
    num_tokens = sum(stream.num_tokens for stream in streams)
    num_messages = sum(stream.num_messages for stream in streams)
    return Round(
        tokens_per_s=num_tokens / took_s,
        messages_per_s=num_messages / took_s,
        requests_per_s=len(streams) / took_s,
        delay_ms=statistics.median(delays_ms),
        first_ms=statistics.median(firsts_ms),
    )


def _missed(results: dict[str, Figures]) -> list[str]:
    """The targets that were missed."""
    bare, routed = results[BARE.name], results[ROUTER.name]
    missed = []
    if routed["tokens_per_s"] < MIN_TOKENS_PER_S:
        missed.append(f"fewer than {MIN_TOKENS_PER_S:,} tokens/s")
    if routed["delay_ms"] - bare["delay_ms"] > MAX_ADDED_MS:
        missed.append(f"more than {MAX_ADDED_MS} ms added to a message")
    return missed


def _report(results: dict[str, Figures], missed: list[str], arguments: argparse.Namespace) -> None:
    bare, routed, unobserved, observed = (results[endpoint.name] for endpoint in ENDPOINTS)
    table = Table(
        "",
        *(endpoint.name for endpoint in ENDPOINTS),
        "router / bare",
        "observed / not",
        title=f"{arguments.num_streams} streams",
    )
    for key in bare:
        figures = (f"{results[endpoint.name][key]:,.2f}" for endpoint in ENDPOINTS)
        table.add_row(
            key, *figures, f"{routed[key] / bare[key]:.2f}", f"{observed[key] / unobserved[key]:.2f}"
        )
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
                "unobserved": unobserved,
                "observed": observed,
                "added_delay_ms": routed["delay_ms"] - bare["delay_ms"],
                "missed": missed,
            }
        )
    )


def _median(rounds: list[Round], name: str) -> float:
    return float(statistics.median(getattr(measured, name) for measured in rounds))


if __name__ == "__main__":
    main()
