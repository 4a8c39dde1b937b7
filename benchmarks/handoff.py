"""What a hand-over costs: from the meta's decision to the expert's first token, less the expert's prefill.

The demo's meta and one of its experts (`make demo` builds them), streamed, greedy. Every process writes down
when an answer passes it, by the one monotonic clock of this machine. The gap is the time from the moment at
which the chunk with the decision leaves the meta's engine to that at which the expert's first token reaches
the router, less `prefill_s`, which the expert's engine reports: from where it began with the prompt until it
had a token. Beside it, the same sum as any client can have it (`queue + hop + engine_queue` of the expert's
call in the trace; it begins when the router has the decision), and what remains of it for the same expert
addressed directly. Cases take turns in one run: a hand-over at the first position, one after words of the
meta, none; one stream, and several in closed loops. Does not show what the second prefill costs, nor proxy,
client and network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.handing.stamps import Way, read_stamps
from benchmarks.hot.world import NAME, Script, write_world
from benchmarks.relaying.client import events
from benchmarks.serving import served
from cluster.config import load_config
from cluster.serve_config import build_serve_config
from examples.demo.run import prepare
from experts.learn import read_queries

EXPERT = "roman"
STAMPED = "benchmarks.handing.stamped"
MAX_GAP_MS = 8.0
MAX_TOKENS = 48


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    questions: Sequence[str]
    hands_over: bool


@dataclass
class Seen:
    """What the answers of one case and number of streams took; `traced_ms` is the gap by the trace."""

    ways: list[Way] = field(default_factory=list)
    traced_ms: list[float] = field(default_factory=list)

    @property
    def gap_ms(self) -> float:
        return 1000 * statistics.median(way.gap_s for way in self.ways)

    def part_ms(self, part: str) -> float:
        return 1000 * statistics.median(dict(way.parts())[part] for way in self.ways)


Found = Mapping[tuple[str, int], Seen]
Traced = tuple[str, float]  # the answer's id, and the gap by its trace, in ms


def main() -> None:
    arguments = _arguments()
    arguments.demo = arguments.demo.resolve()
    prepare(arguments.demo)
    with served(partial(_deploy_config, demo=arguments.demo)) as cluster:
        traced = asyncio.run(_rounds(cluster.url, _cases(arguments.demo), arguments))
        stamps = read_stamps(Path(cluster.deploy["applications"][0]["args"]["stamps"]))
        found = {
            case: Seen([Way.of(stamps[answer]) for answer, _ in answers], [gap_ms for _, gap_ms in answers])
            for case, answers in traced.items()
        }
    missed = _report(found, arguments)
    if missed:
        sys.exit(f"more than {MAX_GAP_MS:g} ms: {'; '.join(missed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path(".cache/demo"), help="where the demo's models are")
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--num-answers", type=int, default=16, help="of each stream in each round")
    parser.add_argument("--num-rounds", type=int, default=5)
    return parser.parse_args()


def _deploy_config(folder: Path, demo: Path) -> dict[str, Any]:
    script = Script((EXPERT,), (), "", "", "", 1)
    deploy = build_serve_config(load_config(write_world(folder, demo, script)))
    (folder / "stamps").mkdir()
    for app in deploy["applications"]:
        app["import_path"] = app["import_path"].replace("deployments.apps", STAMPED)
        app["args"]["stamps"] = str(folder / "stamps")
    return deploy


def _cases(demo: Path) -> list[Case]:
    """Of the held-out questions, those that are greeted are handed over after words."""
    queries = [one for one in read_queries(demo / "data" / "questions.jsonl") if one.expert == EXPERT]
    plain = [one.messages[0]["content"] for one in queries if not one.written]
    greeted = [one.messages[0]["content"] for one in queries if one.written]
    return [
        Case("at the first position", NAME, plain, hands_over=True),
        Case("after words of the meta", NAME, greeted, hands_over=True),
        Case("addressed directly", f"{NAME}/{EXPERT}", plain, hands_over=False),
    ]


async def _rounds(
    url: str, cases: Sequence[Case], arguments: argparse.Namespace
) -> dict[tuple[str, int], list[Traced]]:
    """By case and number of streams; the first round, which warms everything, is left out."""
    found: defaultdict[tuple[str, int], list[Traced]] = defaultdict(list)
    for number in range(arguments.num_rounds + 1):
        for num_streams in arguments.num_streams:
            for case in cases:
                loops = (
                    _ask_on(url, case, first, arguments.num_answers)
                    for first in range(0, num_streams * arguments.num_answers, arguments.num_answers)
                )
                answers = [one for loop in await asyncio.gather(*loops) for one in loop]
                if number:
                    found[case.name, num_streams] += answers
    return found


async def _ask_on(url: str, case: Case, first: int, num_answers: int) -> list[Traced]:
    """One stream: one question after another."""
    return [
        await _ask(url, case, case.questions[i % len(case.questions)])
        for i in range(first, first + num_answers)
    ]


async def _ask(url: str, case: Case, question: str) -> Traced:
    """Raises RuntimeError where the answer took another way than the case's."""
    body: dict[str, Any] = {
        "model": case.model,
        "messages": [{"role": "user", "content": question}],
        "temperature": 0,
        "max_tokens": MAX_TOKENS,
        "stream": True,
        "routing": {"trace": True},
    }
    last: dict[str, Any] = {}
    async for line in events(url, "/v1/chat/completions", body):
        last = json.loads(line)
    calls = last["routing"]["timing"]["calls"]
    wanted = ["meta", EXPERT] if case.hands_over else [EXPERT]
    if [call["model"] for call in calls] != wanted:
        raise RuntimeError(f"{question!r} was answered by {calls}")
    return f"{last['id']}-0", sum(calls[-1][part] for part in ("queue_ms", "hop_ms", "engine_queue_ms"))


def _report(found: Found, arguments: argparse.Namespace) -> list[str]:
    """Returns the cases whose gap is larger than wanted."""
    for num_streams in arguments.num_streams:
        of_these = {name: seen for (name, num), seen in found.items() if num == num_streams}
        Console().print(_table(of_these, num_streams))
    print(
        json.dumps(
            {
                "benchmark": "handoff",
                "max_gap_ms": MAX_GAP_MS,
                "cases": [_as_json(*case, seen) for case, seen in found.items()],
            }
        )
    )
    return [
        f"{name}, {num_streams} streams: {seen.gap_ms:.1f}"
        for (name, num_streams), seen in found.items()
        if seen.gap_ms > MAX_GAP_MS and _hands_over(seen)
    ]


def _table(of_these: Mapping[str, Seen], num_streams: int) -> Table:
    table = Table("ms, median", *of_these, title=f"Hand-over, {num_streams} streams")
    for part in _part_names(of_these.values()):
        table.add_row(part, *(f"{seen.part_ms(part):.2f}" for seen in of_these.values()))
    table.add_section()
    table.add_row("gap", *(f"{seen.gap_ms:.2f}" for seen in of_these.values()), style="bold")
    table.add_row("gap, 9 of 10 below", *(f"{_p90_ms(seen):.2f}" for seen in of_these.values()))
    table.add_row("by the trace", *(f"{statistics.median(seen.traced_ms):.2f}" for seen in of_these.values()))
    table.add_row(
        "the expert's prefill", *(f"{_prefill_ms(seen):.2f}" for seen in of_these.values()), style="dim"
    )
    return table


def _as_json(name: str, num_streams: int, seen: Seen) -> dict[str, Any]:
    return {
        "case": name,
        "num_streams": num_streams,
        "num_answers": len(seen.ways),
        "gap_ms": round(seen.gap_ms, 2),
        "gap_p90_ms": round(_p90_ms(seen), 2),
        "traced_gap_ms": round(statistics.median(seen.traced_ms), 2),
        "prefill_ms": round(_prefill_ms(seen), 2),
        "parts_ms": {part: round(seen.part_ms(part), 2) for part in _part_names([seen])},
    }


def _part_names(some: Iterable[Seen]) -> list[str]:
    return [name for name, _ in next(iter(some)).ways[0].parts()]


def _hands_over(seen: Seen) -> bool:
    return any(way.told_s for way in seen.ways)


def _p90_ms(seen: Seen) -> float:
    return 1000 * statistics.quantiles([way.gap_s for way in seen.ways], n=10)[-1]


def _prefill_ms(seen: Seen) -> float:
    return 1000 * statistics.median(way.prefill_s for way in seen.ways)


if __name__ == "__main__":
    main()
