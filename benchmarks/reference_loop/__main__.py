"""Many questions at once: this system against the sequential loop of published code, on the same cores.

The loop is one process with all models loaded. Each question goes through `generate` of the meta with the
extended head, one at a time, greedy, with a KV cache. If an expert's token wins, `generate` of that expert
continues the text. The published loop also wastes a step after an expert token, penalizes repetition and
drops the meta's words; this one does not, so that it is as fast as possible and texts can be compared. It
uses one thread or one per core, whichever is faster for a few questions.

This system runs one replica of each model on Ray Serve, with one thread each, in the engine of `--engine`,
behind router, proxy and HTTP. All questions are sent at once. Both sides have their models loaded, rounds
take turns, and the other side is idle. With the toy world's models, most time on both sides is Python. The
larger models have random weights and write as many tokens as requested. GPUs are not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.overhead.model import ENGINE_ENV
from benchmarks.reference_loop.loop import ReferenceLoop
from benchmarks.reference_loop.worlds import (
    ENGINES,
    NAME,
    EngineKind,
    MakeWorld,
    World,
    random_world,
    toy_world,
)
from benchmarks.relay.client import whole
from benchmarks.serving import served
from benchmarks.toy.world import prepare

MIN_RATIO = 10.0
Answers = Sequence[tuple[str, int]]  # text and number of tokens, in the order of the questions


@dataclass
class Comparison:
    """The seconds of each round. `num_different_texts`: answers whose two texts differ."""

    num_questions: int
    num_threads: int  # of the loop
    num_tokens: int = 0
    num_different_texts: int = 0
    loop_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.loop_s) / statistics.median(self.ours_s)

    def tokens_per_s(self, rounds_s: Sequence[float]) -> float:
        return self.num_tokens / statistics.median(rounds_s)


def main() -> None:
    arguments = _arguments()
    comparisons = {name: _compare(make, arguments) for name, make in _worlds(arguments).items()}
    missed = _report(comparisons, arguments.engine)
    if missed:
        sys.exit("; ".join(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", type=Path, default=Path(".cache/toy"), help="the toy world's folder")
    parser.add_argument("--num-questions", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=512, help="of the larger models")
    parser.add_argument("--num-layers", type=int, default=8)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--only", choices=["toy", "larger"])
    parser.add_argument("--engine", choices=list(ENGINES), default="transformers", help="of our models")
    return parser.parse_args()


def _worlds(arguments: argparse.Namespace) -> dict[str, MakeWorld]:
    worlds: dict[str, MakeWorld] = {}
    if arguments.only != "larger":
        toy = arguments.toy.resolve()
        prepare(toy)
        worlds["toy"] = toy_world(toy)
    if arguments.only != "toy":
        size = (arguments.hidden_size, arguments.num_layers)
        worlds[f"{size[1]} layers × {size[0]}"] = random_world(*size, arguments.num_tokens)
    return worlds


def _compare(make: MakeWorld, arguments: argparse.Namespace) -> Comparison:
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        world = make(Path(scratch), arguments.num_questions)
        loop = ReferenceLoop(world.models, world.tokens, world.experts)
        comparison = Comparison(len(world.questions), _best_num_threads(loop, world))
        torch.set_num_threads(comparison.num_threads)
        make_config = partial(world.deploy_config, engine_kind=arguments.engine)
        with served(make_config, env=ENGINE_ENV) as cluster:
            for number in range(arguments.num_rounds + 1):
                texts, loop_s = _timed(lambda: _loop(loop, world))
                ours, ours_s = _timed(lambda: asyncio.run(_ask_all(cluster.url, world)))
                comparison.num_tokens = sum(num_tokens for _, num_tokens in texts)
                comparison.num_different_texts += sum(a != b for a, b in zip(texts, ours, strict=True))
                if number:  # the first round warms up both sides
                    comparison.loop_s.append(loop_s)
                    comparison.ours_s.append(ours_s)
    return comparison


def _best_num_threads(loop: ReferenceLoop, world: World) -> int:
    few = replace(world, questions=world.questions[:8])

    def took_s(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        return min(_timed(lambda: _loop(loop, few))[1] for _ in range(2))

    return min((1, os.cpu_count() or 1), key=took_s)


def _timed(work: Any) -> tuple[Answers, float]:
    began_s = time.perf_counter()
    answers: Answers = work()
    return answers, time.perf_counter() - began_s


def _loop(loop: ReferenceLoop, world: World) -> Answers:
    return [loop.answer(question.messages, world.max_tokens) for question in world.questions]


async def _ask_all(url: str, world: World) -> Answers:
    async def ask(messages: Sequence[Any]) -> tuple[str, int]:
        body = {"model": NAME, "messages": list(messages), "temperature": 0, "max_tokens": world.max_tokens}
        answer = await whole(url, "/v1/chat/completions", body)
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    return await asyncio.gather(*(ask(question.messages) for question in world.questions))


def _report(comparisons: dict[str, Comparison], engine: EngineKind) -> list[str]:
    """Print the results. Returns the targets that were missed."""
    table = Table("models", "", "seconds", "answers/s", "tokens/s", "threads", title="All questions at once")
    for name, comparison in comparisons.items():
        rows = (
            ("loop", comparison.loop_s, str(comparison.num_threads)),
            (f"ours, {engine}", comparison.ours_s, "1 per model"),
        )
        for side, rounds_s, threads in rows:
            took_s = statistics.median(rounds_s)
            table.add_row(
                name,
                side,
                f"{took_s:.2f} ({min(rounds_s):.2f}–{max(rounds_s):.2f})",
                f"{comparison.num_questions / took_s:.1f}",
                f"{comparison.tokens_per_s(rounds_s):.0f}",
                threads,
            )
        table.add_row(name, "ratio", f"{comparison.ratio:.1f}", style="bold")
        table.add_section()
    Console().print(table)
    named = comparisons.items()
    figures = {name: _as_json(comparison) for name, comparison in named}
    print(json.dumps({"benchmark": "reference_loop", "engine": engine, **figures}))
    return [
        *(
            f"{name}: {c.ratio:.1f} × the loop, below {MIN_RATIO:g}"
            for name, c in named
            if c.ratio < MIN_RATIO
        ),
        *(f"{name}: {c.num_different_texts} texts differ" for name, c in named if c.num_different_texts),
    ]


def _as_json(comparison: Comparison) -> dict[str, Any]:
    return {
        "num_questions": comparison.num_questions,
        "num_tokens": comparison.num_tokens,
        "loop_threads": comparison.num_threads,
        "loop_s": [round(took_s, 3) for took_s in comparison.loop_s],
        "ours_s": [round(took_s, 3) for took_s in comparison.ours_s],
        "loop_tokens_per_s": round(comparison.tokens_per_s(comparison.loop_s), 1),
        "ours_tokens_per_s": round(comparison.tokens_per_s(comparison.ours_s), 1),
        "ratio": round(comparison.ratio, 2),
        "num_different_texts": comparison.num_different_texts,
    }


if __name__ == "__main__":
    main()
