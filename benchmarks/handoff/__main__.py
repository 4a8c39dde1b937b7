"""The cost of a hand-over: from the decision to the first token of the expert, without its prefill.

The toy world's meta and one of its experts stream greedy answers. Every process writes
timestamps by the machine's monotonic clock. The gap begins when the decision leaves the meta's engine and
ends when the expert's first token reaches the router. `prefill_s`, which the expert's engine reports, is
subtracted. The table also has the gap as a client sees it in the trace (`queue + hop + engine_queue` of the
expert's call; it begins when the router has the decision), and the gap of the same expert addressed directly.
The cases take turns in one run: a hand-over at the first position, a hand-over after words of the meta, and
none; with one stream, and with several in closed loops. The cost of the second prefill, of proxy, client and
network is not measured.
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

from benchmarks.handoff.stamps import HandoffTiming, read_stamps
from benchmarks.hot_change.world import NAME, Script, write_world
from benchmarks.relay.client import events
from benchmarks.serving import served
from benchmarks.toy.world import prepare
from cluster.config.cluster_config import load_config
from cluster.serve.deploy_config import build_serve_config
from experts.learn import read_queries

EXPERT = "roman"
STAMPED = "benchmarks.handoff.stamped"
MAX_GAP_MS = 8.0
MAX_TOKENS = 48


@dataclass(frozen=True)
class Case:
    name: str
    model: str
    questions: Sequence[str]
    hands_over: bool


@dataclass
class CaseTimings:
    """The answers of one case with one number of streams. `traced_ms`: the gap according to the trace."""

    timings: list[HandoffTiming] = field(default_factory=list)
    traced_ms: list[float] = field(default_factory=list)

    @property
    def gap_ms(self) -> float:
        return 1000 * statistics.median(timing.gap_s for timing in self.timings)

    def part_ms(self, part: str) -> float:
        return 1000 * statistics.median(dict(timing.parts())[part] for timing in self.timings)


Results = Mapping[tuple[str, int], CaseTimings]
Traced = tuple[str, float]  # the answer's id, and the gap by its trace, in ms


def main() -> None:
    arguments = _arguments()
    arguments.toy = arguments.toy.resolve()
    prepare(arguments.toy)
    with served(partial(_deploy_config, toy=arguments.toy)) as cluster:
        traced = asyncio.run(_rounds(cluster.url, _cases(arguments.toy), arguments))
        stamps = read_stamps(Path(cluster.deploy["applications"][0]["args"]["stamps"]))
        results = {
            case: CaseTimings(
                [HandoffTiming.of(stamps[answer]) for answer, _ in answers], [gap_ms for _, gap_ms in answers]
            )
            for case, answers in traced.items()
        }
    missed = _report(results, arguments)
    if missed:
        sys.exit(f"more than {MAX_GAP_MS:g} ms: {'; '.join(missed)}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", type=Path, default=Path(".cache/toy"), help="the toy world's folder")
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--num-answers", type=int, default=16, help="per stream and round")
    parser.add_argument("--num-rounds", type=int, default=5)
    return parser.parse_args()


def _deploy_config(folder: Path, toy: Path) -> dict[str, Any]:
    script = Script((EXPERT,), (), "", "", "", 1)
    (folder / "stamps").mkdir()
    return stamped(build_serve_config(load_config(write_world(folder, toy, script))), folder / "stamps")


def stamped(deploy: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The same deploy config, whose applications write timestamps to the folder."""
    for app in deploy["applications"]:
        _, _, builder = app["import_path"].partition(":")
        app["import_path"] = f"{STAMPED}:{builder}"
        app["args"]["stamps"] = str(folder)
    return deploy


def _cases(toy: Path) -> list[Case]:
    """Held-out questions. Those with a greeting are handed over after the meta has greeted back."""
    queries = [query for query in read_queries(toy / "data" / "questions.jsonl") if query.expert == EXPERT]
    plain = [query.messages[0]["content"] for query in queries if not query.written]
    greeted = [query.messages[0]["content"] for query in queries if query.written]
    return [
        Case("at the first position", NAME, plain, hands_over=True),
        Case("after words of the meta", NAME, greeted, hands_over=True),
        Case("addressed directly", f"{NAME}/{EXPERT}", plain, hands_over=False),
    ]


async def _rounds(
    url: str, cases: Sequence[Case], arguments: argparse.Namespace
) -> dict[tuple[str, int], list[Traced]]:
    """The answers by case and number of streams. The first round warms everything up and does not count."""
    results: defaultdict[tuple[str, int], list[Traced]] = defaultdict(list)
    for number in range(arguments.num_rounds + 1):
        for num_streams in arguments.num_streams:
            for case in cases:
                loops = (
                    _ask_in_turn(url, case, first, arguments.num_answers)
                    for first in range(0, num_streams * arguments.num_answers, arguments.num_answers)
                )
                answers = [answer for loop in await asyncio.gather(*loops) for answer in loop]
                if number:
                    results[case.name, num_streams] += answers
    return results


async def _ask_in_turn(url: str, case: Case, first: int, num_answers: int) -> list[Traced]:
    """One stream asks one question after another."""
    return [
        await _ask(url, case, case.questions[i % len(case.questions)])
        for i in range(first, first + num_answers)
    ]


async def _ask(url: str, case: Case, question: str) -> Traced:
    """Raises RuntimeError if other models answered than the case expects."""
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


def _report(results: Results, arguments: argparse.Namespace) -> list[str]:
    """Print the results. Returns the cases whose gap is too large."""
    for num_streams in arguments.num_streams:
        by_case = {name: measured for (name, num), measured in results.items() if num == num_streams}
        Console().print(_table(by_case, num_streams))
    print(
        json.dumps(
            {
                "benchmark": "handoff",
                "max_gap_ms": MAX_GAP_MS,
                "cases": [_as_json(*case, measured) for case, measured in results.items()],
            }
        )
    )
    return [
        f"{name}, {num_streams} streams: {measured.gap_ms:.1f}"
        for (name, num_streams), measured in results.items()
        if measured.gap_ms > MAX_GAP_MS and _hands_over(measured)
    ]


def _table(by_case: Mapping[str, CaseTimings], num_streams: int) -> Table:
    table = Table("ms, median", *by_case, title=f"Hand-over, {num_streams} streams")
    for part in _part_names(by_case.values()):
        table.add_row(part, *(f"{measured.part_ms(part):.2f}" for measured in by_case.values()))
    table.add_section()
    table.add_row("gap", *(f"{measured.gap_ms:.2f}" for measured in by_case.values()), style="bold")
    table.add_row("gap, p90", *(f"{_p90_ms(measured):.2f}" for measured in by_case.values()))
    table.add_row(
        "gap in the trace", *(f"{statistics.median(measured.traced_ms):.2f}" for measured in by_case.values())
    )
    table.add_row(
        "the expert's prefill",
        *(f"{_prefill_ms(measured):.2f}" for measured in by_case.values()),
        style="dim",
    )
    return table


def _as_json(name: str, num_streams: int, measured: CaseTimings) -> dict[str, Any]:
    return {
        "case": name,
        "num_streams": num_streams,
        "num_answers": len(measured.timings),
        "gap_ms": round(measured.gap_ms, 2),
        "gap_p90_ms": round(_p90_ms(measured), 2),
        "traced_gap_ms": round(statistics.median(measured.traced_ms), 2),
        "prefill_ms": round(_prefill_ms(measured), 2),
        "parts_ms": {part: round(measured.part_ms(part), 2) for part in _part_names([measured])},
    }


def _part_names(cases: Iterable[CaseTimings]) -> list[str]:
    return [name for name, _ in next(iter(cases)).timings[0].parts()]


def _hands_over(measured: CaseTimings) -> bool:
    return any(timing.decision_s for timing in measured.timings)


def _p90_ms(measured: CaseTimings) -> float:
    return 1000 * statistics.quantiles([timing.gap_s for timing in measured.timings], n=10)[-1]


def _prefill_ms(measured: CaseTimings) -> float:
    return 1000 * statistics.median(timing.prefill_s for timing in measured.timings)


if __name__ == "__main__":
    main()
