"""Many questions at once: this system against the loop that published code runs, on the same two cores.

The loop is one process with all models loaded: each question goes through `generate` of the meta with the
extended head, one at a time and greedy, with a cache; where an expert's token wins, through `generate` of
that expert, from the text so far. Its wasted step after an expert token, its penalty on repetition and its
loss of what the meta wrote are left out, so that it is as fast as it can be and the texts can be compared. It
may use as many threads as there are cores, or one if that is faster, which a few questions show before.

Here: one replica of each model on Ray Serve, one thread each, in whichever engine was asked for, behind
router, proxy and HTTP, all questions sent at once. Both have their models loaded; rounds take turns; what is
not under way is idle. The demo's models are so small that Python is most of both; the larger ones have random
weights and write as much as they are asked for. Does not show what a GPU would make of either.
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

from benchmarks.looping.loop import PaperLoop
from benchmarks.looping.worlds import ENGINES, NAME, EngineKind, MakeWorld, World, demo_world, random_world
from benchmarks.peers.model import ENGINE_ENV
from benchmarks.relaying.client import whole
from benchmarks.serving import served
from examples.demo.run import prepare

MIN_RATIO = 10.0
Answers = Sequence[tuple[str, int]]  # text and number of tokens, in the order of the questions


@dataclass
class Compared:
    """Seconds of each round. `num_other_texts`: answers of which the two texts are not the same."""

    num_questions: int
    num_threads: int  # of the loop
    num_tokens: int = 0
    num_other_texts: int = 0
    loop_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.loop_s) / statistics.median(self.ours_s)

    def tokens_per_s(self, rounds_s: Sequence[float]) -> float:
        return self.num_tokens / statistics.median(rounds_s)


def main() -> None:
    arguments = _arguments()
    found = {name: _compare(make, arguments) for name, make in _worlds(arguments).items()}
    missed = _report(found, arguments.engine)
    if missed:
        sys.exit("; ".join(missed))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path(".cache/demo"), help="where the demo's models are")
    parser.add_argument("--num-questions", type=int, default=64)
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--hidden-size", type=int, default=512, help="of the larger models")
    parser.add_argument("--num-layers", type=int, default=8)
    parser.add_argument("--num-tokens", type=int, default=64)
    parser.add_argument("--only", choices=["demo", "larger"])
    parser.add_argument("--engine", choices=list(ENGINES), default="transformers", help="ours")
    return parser.parse_args()


def _worlds(arguments: argparse.Namespace) -> dict[str, MakeWorld]:
    worlds: dict[str, MakeWorld] = {}
    if arguments.only != "larger":
        demo = arguments.demo.resolve()
        prepare(demo)
        worlds["demo"] = demo_world(demo)
    if arguments.only != "demo":
        size = (arguments.hidden_size, arguments.num_layers)
        worlds[f"{size[1]} layers × {size[0]}"] = random_world(*size, arguments.num_tokens)
    return worlds


def _compare(make: MakeWorld, arguments: argparse.Namespace) -> Compared:
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        world = make(Path(scratch), arguments.num_questions)
        loop = PaperLoop(world.models, world.tokens, world.experts)
        compared = Compared(len(world.questions), _best_num_threads(loop, world))
        torch.set_num_threads(compared.num_threads)
        make_config = partial(world.deploy_config, engine_kind=arguments.engine)
        with served(make_config, env=ENGINE_ENV) as cluster:
            for number in range(arguments.num_rounds + 1):
                texts, loop_s = _timed(lambda: _loop(loop, world))
                ours, ours_s = _timed(lambda: asyncio.run(_ask_all(cluster.url, world)))
                compared.num_tokens = sum(num_tokens for _, num_tokens in texts)
                compared.num_other_texts += sum(a != b for a, b in zip(texts, ours, strict=True))
                if number:  # the first round warms both
                    compared.loop_s.append(loop_s)
                    compared.ours_s.append(ours_s)
    return compared


def _best_num_threads(loop: PaperLoop, world: World) -> int:
    few = replace(world, questions=world.questions[:8])

    def took_s(num_threads: int) -> float:
        torch.set_num_threads(num_threads)
        return min(_timed(lambda: _loop(loop, few))[1] for _ in range(2))

    return min((1, os.cpu_count() or 1), key=took_s)


def _timed(work: Any) -> tuple[Answers, float]:
    began_s = time.perf_counter()
    answers: Answers = work()
    return answers, time.perf_counter() - began_s


def _loop(loop: PaperLoop, world: World) -> Answers:
    return [loop.answer(question.messages, world.max_tokens) for question in world.questions]


async def _ask_all(url: str, world: World) -> Answers:
    async def ask(messages: Sequence[Any]) -> tuple[str, int]:
        body = {"model": NAME, "messages": list(messages), "temperature": 0, "max_tokens": world.max_tokens}
        answer = await whole(url, "/v1/chat/completions", body)
        return answer["choices"][0]["message"]["content"], answer["usage"]["completion_tokens"]

    return await asyncio.gather(*(ask(question.messages) for question in world.questions))


def _report(found: dict[str, Compared], engine: EngineKind) -> list[str]:
    """Returns what is not as wanted."""
    table = Table("models", "", "seconds", "answers/s", "tokens/s", "threads", title="All questions at once")
    for name, one in found.items():
        rows = (("loop", one.loop_s, str(one.num_threads)), (f"here, {engine}", one.ours_s, "one each"))
        for what, rounds_s, threads in rows:
            took_s = statistics.median(rounds_s)
            table.add_row(
                name,
                what,
                f"{took_s:.2f} ({min(rounds_s):.2f}–{max(rounds_s):.2f})",
                f"{one.num_questions / took_s:.1f}",
                f"{one.tokens_per_s(rounds_s):.0f}",
                threads,
            )
        table.add_row(name, "ratio", f"{one.ratio:.1f}", style="bold")
        table.add_section()
    Console().print(table)
    figures = {name: _as_json(one) for name, one in found.items()}
    print(json.dumps({"benchmark": "reference_loop", "engine": engine, **figures}))
    slow = [f"{name}: {one.ratio:.1f} × the loop, wanted {MIN_RATIO:g}" for name, one in found.items()]
    wrong = [f"{name}: {one.num_other_texts} texts differ" for name, one in found.items()]
    return [
        *(told for told, one in zip(slow, found.values(), strict=True) if one.ratio < MIN_RATIO),
        *(told for told, one in zip(wrong, found.values(), strict=True) if one.num_other_texts),
    ]


def _as_json(one: Compared) -> dict[str, Any]:
    return {
        "num_questions": one.num_questions,
        "num_tokens": one.num_tokens,
        "loop_threads": one.num_threads,
        "loop_s": [round(took_s, 3) for took_s in one.loop_s],
        "ours_s": [round(took_s, 3) for took_s in one.ours_s],
        "loop_tokens_per_s": round(one.tokens_per_s(one.loop_s), 1),
        "ours_tokens_per_s": round(one.tokens_per_s(one.ours_s), 1),
        "ratio": round(one.ratio, 2),
        "num_other_texts": one.num_other_texts,
    }


if __name__ == "__main__":
    main()
