"""The cost of each switch in one answer of `after_expert: return`, with the prefix cache on and off.

A model with random weights runs in the default engine, without network or replica. The meta and an expert,
which is an adapter of the same engine, write spans by turns, each in a call with the conversation and all
that is written, as the router makes them. A switch lasts from such a call to its first token. The first
switch is apart: there the expert reads the conversation for the first time. The engines with and without the
cache take turns. Beside them stands an ordinary step of the same answer, whose attention covers the whole
text too.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.engines.adapters import save_adapters
from benchmarks.models import save_random_model
from experts.engine.config import TransformersConfig
from experts.engine.hf.engine import TransformersEngine
from experts.engine.request import EngineRequest

EXPERT = "law"
NUM_SWITCHES = 8
SPAN_TOKENS = 24
ROOM_TOKENS = 512  # of the window, for answers
MAX_GROWTH = 1.2  # the goal: of a switch with the cache, from the shortest conversation to the longest


@dataclass
class Measured:
    """Of one conversation and setting. `first_ms` has one entry a round, `switch_ms` one for each later
    switch, and `step_ms` one for each call."""

    first_ms: list[float] = field(default_factory=list)
    switch_ms: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)

    def medians(self) -> dict[str, float]:
        return {name: round(statistics.median(times), 2) for name, times in vars(self).items()}


Results = dict[tuple[int, bool], Measured]  # by tokens of the conversation, and whether the cache is on


def main() -> None:
    arguments = _arguments()
    results: Results = defaultdict(Measured)
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        asyncio.run(_measure(Path(scratch), arguments, results))
    _report(results)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 1024, 4096], help="tokens")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--num-layers", type=int, default=4)
    return parser.parse_args()


async def _measure(folder: Path, arguments: argparse.Namespace, results: Results) -> None:
    """The first round warms everything up and does not count."""
    window = max(arguments.lengths) + ROOM_TOKENS
    size = {"hidden_size": arguments.hidden_size, "num_layers": arguments.num_layers}
    save_random_model(folder / "base", **size, max_model_len=window)
    save_adapters(folder / "base", [folder / "adapter"], rank=8)
    async with AsyncExitStack() as stack:
        engines = {is_on: await _engine(folder, window, stack, is_on=is_on) for is_on in (True, False)}
        for number in range(arguments.num_rounds + 1):
            for length in arguments.lengths:
                for is_on, engine in engines.items():
                    measured = results[length, is_on] if number else Measured()
                    await _answer(engine, _conversation(length, number), measured)


async def _engine(folder: Path, window: int, stack: AsyncExitStack, *, is_on: bool) -> TransformersEngine:
    config = TransformersConfig(
        dtype="float32",
        num_threads=1,
        max_streams=1,
        max_adapters=1,
        cache_tokens=4 * window,
        prefix_caching=is_on,
    )
    engine = TransformersEngine(str(folder / "base"), config)
    stack.push_async_callback(engine.close)
    await engine.load_adapter(EXPERT, str(folder / "adapter"))
    return engine


def _conversation(length: int, number: int) -> str:
    """A text of about so many tokens, of one letter each; no other number's begins like it."""
    return f"{number} {length} ".ljust(length - 32, "q")


async def _answer(engine: TransformersEngine, text: str, measured: Measured) -> None:
    written = ""
    for number in range(NUM_SWITCHES + 1):
        request = EngineRequest(
            "r",
            messages=({"role": "user", "content": text},),
            written=written,
            temperature=0.0,
            max_tokens=SPAN_TOKENS,
            adapter=EXPERT if number % 2 else None,
        )
        begun_s, times_s = time.perf_counter(), []
        async with aclosing(engine.generate(request)) as chunks:
            async for chunk in chunks:
                times_s.append(time.perf_counter())
                written += chunk.text
        steps_s = [after - before for before, after in zip(times_s, times_s[1:], strict=False)]
        measured.step_ms.append(1000 * statistics.median(steps_s))
        if number:
            switches_ms = measured.switch_ms if number > 1 else measured.first_ms
            switches_ms.append(1000 * (times_s[0] - begun_s))


def _report(results: Results) -> None:
    table = Table(
        "conversation", "prefix cache", "first switch, ms", "later switches, ms", "ordinary step, ms"
    )
    lines = []
    for (length, is_on), measured in results.items():
        medians = measured.medians()
        table.add_row(str(length), "on" if is_on else "off", *(f"{ms:.1f}" for ms in medians.values()))
        lines.append({"conversation": length, "prefix_caching": is_on, **medians})
    Console().print(table)
    growth = {is_on: _growth(results, is_on=is_on) for is_on in (True, False)}
    print(f"from the shortest to the longest: {growth[True]:.2f} × on, {growth[False]:.2f} × off")
    figures = {"growth_on": round(growth[True], 2), "growth_off": round(growth[False], 2)}
    print(json.dumps({"benchmark": "handoff.returns", "max_growth": MAX_GROWTH, **figures, "cases": lines}))


def _growth(results: Results, *, is_on: bool) -> float:
    lengths = [length for length, _ in results]
    switches = [results[length, is_on].medians()["switch_ms"] for length in (min(lengths), max(lengths))]
    return switches[1] / switches[0]


if __name__ == "__main__":
    main()
