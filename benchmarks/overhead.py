"""What serving adds to an engine: the same model, bare and served by everybody, asked in turn in one run.

A vLLM model with random weights (8 layers × 512, float32, one thread, eager), greedy answers of a fixed
length, streamed to one client process: by the bare engine in this process, by vLLM's own server, by
`ray.serve.llm` as it comes, and by ours, addressed straight to an expert, and routed by a meta of the same
size that hands over at once. All of them are up for the whole run and wait while others are asked; no two
answers share a question. Shows what a layer costs where it shares two processors with its engine. Does not
show GPUs, where the layer has processors of its own. Needs an environment with vLLM and what `ray.serve.llm`
imports.
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
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.models import save_random_model
from benchmarks.peers.bare import bare
from benchmarks.peers.client import Answer, ask
from benchmarks.peers.model import ENGINE_ENV, NAME, Model
from benchmarks.peers.ours import EXPERT, ours
from benchmarks.peers.ours import NAME as OURS
from benchmarks.peers.serve_llm import serve_llm
from benchmarks.peers.vllm_server import vllm_server

BARE, SERVER, SERVE_LLM, DIRECT, ROUTED = (
    "bare engine",
    "vLLM's server",
    "ray.serve.llm",
    "ours",
    "ours, routed",
)
PREFILL = "prefill"  # the bare engine once more, one token an answer: the work of a meta that hands over
ALONE = 4  # answers one after the other, where there is one stream
REST_S = 1.2  # on CPUs vLLM's processes wait in busy loops for a second; nobody pays for who was asked before
TRACED = {"routing": {"trace": True}}
NUMBERS = itertools.count(1)
Ask = Callable[[str, int], Awaitable[Answer]]
Phases = dict[str, float]  # of one call, in ms: `router.timing.CallTiming`


@dataclass
class Rounds:
    """Of each round: how long all answers took together; the median time to first text; and, where the
    answers tell, the medians of what each of their calls spent its time on."""

    took_s: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    calls_ms: list[list[Phases]] = field(default_factory=list)


Measured = dict[tuple[int, str], Rounds]  # by number of streams and way


def main() -> None:
    arguments = _arguments()
    os.environ.update(ENGINE_ENV)
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch, _ways(Path(scratch), arguments) as ways:
        measured = asyncio.run(_measure(ways, arguments))
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


@contextmanager
def _ways(folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Ask]]:
    model = Model(folder / "model", max_streams=max(arguments.num_streams))
    save_random_model(model.folder, hidden_size=arguments.hidden_size, num_layers=arguments.num_layers)
    for name in ("server", "serve_llm", "ours"):
        (folder / name).mkdir()
    with ExitStack() as stack:
        server = stack.enter_context(vllm_server(model, folder / "server"))
        peer = stack.enter_context(serve_llm(model, folder / "serve_llm"))
        own = stack.enter_context(ours(model, folder / "ours"))
        engine = stack.enter_context(bare(model))
        yield {
            BARE: engine,
            SERVER: _over_http(server, NAME),
            SERVE_LLM: _over_http(peer, NAME),
            DIRECT: _over_http(own, f"{OURS}/{EXPERT}", **TRACED),
            ROUTED: _over_http(own, OURS, **TRACED),
        }


def _over_http(url: str, model: str, **options: Any) -> Ask:
    async def asked(question: str, num_tokens: int) -> Answer:
        body: dict[str, Any] = {
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": num_tokens,
            "stream": True,
            **options,
        }
        return await ask(url, "/v1/chat/completions", body)

    return asked


async def _measure(ways: dict[str, Ask], arguments: argparse.Namespace) -> Measured:
    await _same_text(ways, arguments.num_tokens)
    measured: Measured = {}
    cases = {**{way: (asked, arguments.num_tokens) for way, asked in ways.items()}, PREFILL: (ways[BARE], 1)}
    for number in range(arguments.num_rounds + 1):
        for num_streams, (way, (asked, num_tokens)) in itertools.product(
            arguments.num_streams, cases.items()
        ):
            await asyncio.sleep(REST_S)
            took_s, answers = await _together(asked, num_streams, num_tokens)
            if number:  # the first round warms up
                rounds = measured.setdefault((num_streams, way), Rounds())
                rounds.took_s.append(took_s)
                rounds.ttft_ms.append(statistics.median(answer.ttft_ms for answer in answers))
                rounds.calls_ms.append(_medians([answer.calls for answer in answers]))
    return measured


async def _same_text(ways: dict[str, Ask], num_tokens: int) -> None:
    """Everybody answers alike, and in full."""
    texts = {way: (await asked("Who are you?", num_tokens)).text for way, asked in ways.items()}
    if len(set(texts.values())) > 1 or len(texts[BARE]) != num_tokens:
        raise RuntimeError(f"not everybody answers alike: {texts}")


async def _together(asked: Ask, num_streams: int, num_tokens: int) -> tuple[float, list[Answer]]:
    if num_streams == 1:
        answers = [await asked(_question(), num_tokens) for _ in range(ALONE)]
        took_s = statistics.median(answer.ended_s - answer.began_s for answer in answers)
    else:
        answers = await asyncio.gather(*(asked(_question(), num_tokens) for _ in range(num_streams)))
        took_s = max(answer.ended_s for answer in answers) - min(answer.began_s for answer in answers)
    short = [answer.text for answer in answers if len(answer.text) != num_tokens]
    assert not short, f"an answer ended early: {short}"
    return took_s, answers


def _question() -> str:
    number = next(NUMBERS)
    return f"{number} is the number of this question"


def _figures(measured: Measured, num_streams: int, num_tokens: int) -> dict[str, Any]:
    """Medians over the rounds; ratios are of what was measured in the same round."""
    rounds = {way: measured[num_streams, way] for way in (BARE, SERVER, SERVE_LLM, DIRECT, ROUTED, PREFILL)}
    direct, routed, prefill = rounds[DIRECT], rounds[ROUTED], rounds[PREFILL]
    counted_s = [a + b for a, b in zip(direct.took_s, prefill.took_s, strict=True)]
    return {
        "num_streams": num_streams,
        "tokens_per_s": {
            way: round(num_streams * num_tokens / statistics.median(one.took_s), 1)
            for way, one in rounds.items()
            if way != PREFILL
        },
        "ttft_ms": {way: round(statistics.median(one.ttft_ms), 1) for way, one in rounds.items()},
        "calls_ms": {way: _medians(rounds[way].calls_ms) for way in (DIRECT, ROUTED)},
        "direct_by_server": _ratio(rounds[SERVER].took_s, direct.took_s),
        "direct_by_serve_llm": _ratio(rounds[SERVE_LLM].took_s, direct.took_s),
        "routed_by_direct_and_prefill": _ratio(counted_s, routed.took_s),
        "ttft_over_server_ms": _difference(direct.ttft_ms, rounds[SERVER].ttft_ms),
        "ttft_over_direct_and_prefill_ms": _difference(
            routed.ttft_ms, [a + b for a, b in zip(direct.ttft_ms, prefill.ttft_ms, strict=True)]
        ),
    }


def _medians(answers: Sequence[Sequence[Phases]]) -> list[Phases]:
    """Of each call of these answers, which all made as many."""
    return [
        {phase: round(statistics.median(call[phase] for call in calls), 2) for phase in calls[0]}
        for calls in zip(*answers, strict=True)
    ]


def _ratio(theirs: list[float], own: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(theirs, own, strict=True)), 3)


def _difference(own: list[float], theirs: list[float]) -> float:
    return round(statistics.median(a - b for a, b in zip(own, theirs, strict=True)), 1)


def _missed(figures: dict[str, Any]) -> list[str]:
    """Which of the wanted bounds do not hold."""
    many, at = figures["num_streams"] > 1, f"at {figures['num_streams']} streams"
    bounds = [
        (many and figures["direct_by_server"] < 0.95, "throughput below 0.95 × vLLM's server"),
        (many and figures["direct_by_serve_llm"] < 1.4, "throughput below 1.4 × ray.serve.llm"),
        (not many and figures["ttft_over_server_ms"] > 8, "first text over 8 ms after vLLM's server"),
        (figures["routed_by_direct_and_prefill"] < 0.9, "routed below 0.9 × direct and the meta's work"),
        (
            figures["ttft_over_direct_and_prefill_ms"] > 10,
            "routed, first text over 10 ms after direct and prefill",
        ),
    ]
    return [f"{text} {at}" for missed, text in bounds if missed]


def _report(
    measured: Measured, found: list[dict[str, Any]], missed: list[str], arguments: argparse.Namespace
) -> None:
    table = Table("streams", "", "tokens/s, median", "min", "max", "by vLLM's server", "first text, ms")
    for (num_streams, way), rounds in measured.items():
        per_s = sorted(num_streams * arguments.num_tokens / took_s for took_s in rounds.took_s)
        ratio = _ratio(measured[num_streams, SERVER].took_s, rounds.took_s)
        rates = ["", "", "", ""] if way == PREFILL else _rates(per_s, ratio)
        table.add_row(str(num_streams), way, *rates, f"{statistics.median(rounds.ttft_ms):.1f}")
    console = Console()
    console.print(table)
    for text in missed:
        console.print(f"missed: {text}")
    print(json.dumps({"benchmark": "overhead", "num_rounds": arguments.num_rounds, "results": found}))


def _rates(per_s: list[float], ratio: float) -> list[str]:
    return [f"{statistics.median(per_s):.0f}", f"{per_s[0]:.0f}", f"{per_s[-1]:.0f}", f"{ratio:.2f}"]


if __name__ == "__main__":
    main()
