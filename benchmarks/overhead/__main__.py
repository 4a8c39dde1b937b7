"""The overhead of serving: the same model in the bare engine and behind several servers.

A vLLM model with random weights (8 layers × 512, float32, one thread, eager) streams greedy answers of a
fixed length to one client process. It runs in the bare engine in this process; in vLLM's own server, as it
comes and with the executor of our engine; in `ray.serve.llm`, as it comes and with HAProxy and throughput
mode; and in our cluster: as an expert that is addressed directly, and behind a meta of the same size that
hands over at once. In the JSON line, ratios are to the faster of both. All servers run during the whole
measurement and are idle while another one is called. No two answers share a question. The result is the
overhead of a server that shares two CPU cores with its engine; with GPUs, a server has the CPU to itself.
Needs an environment with vLLM and the dependencies of `ray.serve.llm`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.overhead.client import Answer, SendQuestion
from benchmarks.overhead.model import ENGINE_ENV
from benchmarks.overhead.servers import BARE, DIRECT, ROUTED, SERVE_LLMS, VLLM_SERVERS, all_servers

PREFILL = "prefill"  # the bare engine with answers of one token: the work of a meta that hands over
NUM_ALONE = 4  # answers one after another, if there is one stream
IDLE_S = 1.2  # on CPUs, vLLM's processes wait in busy loops for a second after an answer
NUMBERS = itertools.count(1)
Phases = dict[str, float]  # of one call, in ms: `CallTiming` of router/decoding/timing.py


@dataclass
class Rounds:
    """One value per round: the time of all answers together, the median time to first text, and the median
    phases of each call (if the answers have a trace)."""

    took_s: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    calls_ms: list[list[Phases]] = field(default_factory=list)


Measured = dict[tuple[int, str], Rounds]  # by number of streams and server


def main() -> None:
    arguments = _arguments()
    os.environ.update(ENGINE_ENV)
    with (
        tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch,
        all_servers(Path(scratch), arguments) as servers,
    ):
        measured = asyncio.run(_measure(servers, arguments))
    found = [_figures(measured, num_streams, arguments.num_tokens) for num_streams in arguments.num_streams]
    missed = [text for figures in found for text in _missed(figures)]
    _report(measured, found, missed, arguments)
    sys.exit(bool(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=7)
    parser.add_argument("--hidden-size", type=int, default=512)
    parser.add_argument("--num-layers", type=int, default=8)
    return parser.parse_args()


async def _measure(servers: dict[str, SendQuestion], arguments: argparse.Namespace) -> Measured:
    await _require_same_text(servers, arguments.num_tokens)
    measured: Measured = {}
    cases = {
        **{server: (send, arguments.num_tokens) for server, send in servers.items()},
        PREFILL: (servers[BARE], 1),
    }
    for number in range(arguments.num_rounds + 1):
        for num_streams, (server, (send, num_tokens)) in itertools.product(
            arguments.num_streams, cases.items()
        ):
            await asyncio.sleep(IDLE_S)
            took_s, answers = await _together(send, num_streams, num_tokens)
            if number:  # the first round warms up
                rounds = measured.setdefault((num_streams, server), Rounds())
                rounds.took_s.append(took_s)
                rounds.ttft_ms.append(statistics.median(answer.ttft_ms for answer in answers))
                rounds.calls_ms.append(_medians([answer.calls for answer in answers]))
    return measured


async def _require_same_text(servers: dict[str, SendQuestion], num_tokens: int) -> None:
    """Check that all servers give the same whole answer. Raises RuntimeError."""
    texts = {server: (await send("Who are you?", num_tokens)).text for server, send in servers.items()}
    if len(set(texts.values())) > 1 or len(texts[BARE]) != num_tokens:
        raise RuntimeError(f"the servers give different answers: {texts}")


async def _together(send: SendQuestion, num_streams: int, num_tokens: int) -> tuple[float, list[Answer]]:
    if num_streams == 1:
        answers = [await send(_question(), num_tokens) for _ in range(NUM_ALONE)]
        took_s = statistics.median(answer.ended_s - answer.began_s for answer in answers)
    else:
        answers = await asyncio.gather(*(send(_question(), num_tokens) for _ in range(num_streams)))
        took_s = max(answer.ended_s for answer in answers) - min(answer.began_s for answer in answers)
    short = [answer.text for answer in answers if len(answer.text) != num_tokens]
    assert not short, f"an answer ended early: {short}"
    return took_s, answers


def _question() -> str:
    number = next(NUMBERS)
    return f"{number} is the number of this question"


def _figures(measured: Measured, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """Medians over the rounds. Ratios and differences are computed within each round."""
    names = (BARE, *VLLM_SERVERS, *SERVE_LLMS, DIRECT, ROUTED, PREFILL)
    rounds = {name: measured[num_streams, name] for name in names}
    direct, routed, prefill = rounds[DIRECT], rounds[ROUTED], rounds[PREFILL]
    counted_s = [a + b for a, b in zip(direct.took_s, prefill.took_s, strict=True)]
    return {
        "num_streams": num_streams,
        "tokens_per_s": {
            server: round(num_streams * num_tokens / statistics.median(timed.took_s), 1)
            for server, timed in rounds.items()
            if server != PREFILL
        },
        "ttft_ms": {server: round(statistics.median(timed.ttft_ms), 1) for server, timed in rounds.items()},
        "calls_ms": {server: _medians(rounds[server].calls_ms) for server in (DIRECT, ROUTED)},
        "direct_by_server": min(_ratio(rounds[name].took_s, direct.took_s) for name in VLLM_SERVERS),
        "direct_by_serve_llm": min(_ratio(rounds[name].took_s, direct.took_s) for name in SERVE_LLMS),
        "routed_by_direct_and_prefill": _ratio(counted_s, routed.took_s),
        "ttft_over_server_ms": max(
            _difference(direct.ttft_ms, rounds[name].ttft_ms) for name in VLLM_SERVERS
        ),
        "ttft_over_direct_and_prefill_ms": _difference(
            routed.ttft_ms, [a + b for a, b in zip(direct.ttft_ms, prefill.ttft_ms, strict=True)]
        ),
    }


def _medians(answers: Sequence[Sequence[Phases]]) -> list[Phases]:
    """The median phases of each call. All answers have the same number of calls."""
    return [
        {phase: round(statistics.median(call[phase] for call in calls), 2) for phase in calls[0]}
        for calls in zip(*answers, strict=True)
    ]


def _ratio(theirs: list[float], own: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, own, strict=True)), 3)


def _difference(own: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a - b for a, b in zip(own, theirs, strict=True)), 1)


def _missed(figures: dict[str, Any]) -> list[str]:
    """The targets that were missed."""
    many, at = figures["num_streams"] > 1, f"at {figures['num_streams']} streams"
    bounds = [
        (figures["direct_by_server"] < 1.0, "throughput below 1.0 × the faster server of vLLM"),
        (figures["direct_by_serve_llm"] < 1.2, "throughput below 1.2 × the faster ray.serve.llm"),
        (not many and figures["ttft_over_server_ms"] > 8, "first text more than 8 ms after vLLM's server"),
        (
            figures["routed_by_direct_and_prefill"] < 0.9,
            "routed throughput below 0.9 × direct with prefill of the meta",
        ),
        (
            figures["ttft_over_direct_and_prefill_ms"] > 10,
            "routed first text more than 10 ms after direct with prefill of the meta",
        ),
    ]
    return [f"{text} {at}" for missed, text in bounds if missed]


def _report(
    measured: Measured, found: list[dict[str, Any]], missed: list[str], arguments: argparse.Namespace
) -> None:
    table = Table("streams", "", "tokens/s, median", "min", "max", "× vLLM's server", "first text, ms")
    for (num_streams, server), rounds in measured.items():
        per_s = sorted(num_streams * arguments.num_tokens / took_s for took_s in rounds.took_s)
        ratio = _ratio(measured[num_streams, VLLM_SERVERS[0]].took_s, rounds.took_s)
        rates = ["", "", "", ""] if server == PREFILL else _rates(per_s, ratio)
        table.add_row(str(num_streams), server, *rates, f"{statistics.median(rounds.ttft_ms):.1f}")
    console = Console()
    console.print(table)
    for text in missed:
        console.print(f"missed: {text}")
    print(json.dumps({"benchmark": "overhead", "num_rounds": arguments.num_rounds, "results": found}))


def _rates(per_s: list[float], ratio: float) -> list[str]:
    return [f"{statistics.median(per_s):.0f}", f"{per_s[0]:.0f}", f"{per_s[-1]:.0f}", f"{ratio:.2f}"]


if __name__ == "__main__":
    main()
