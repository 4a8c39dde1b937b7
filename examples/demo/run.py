"""The demo: `python -m examples.demo.run FOLDER` builds the models, serves them and asks questions."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.local.head import find_head, state_root
from examples.demo.build import build
from examples.demo.errors import DemoError
from examples.demo.models import SPECS
from examples.demo.progress import showing_progress
from examples.demo.survey import Scores, ask_all, survey
from experts.learn.formats import read_queries
from experts.learn.queries import Query

COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")
LEARNED = "tokens/learned.json"

console = Console(highlight=False)


def main(folder: Path) -> int:
    # Otherwise Ray would keep running when the terminal closes.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    build_s = prepare(folder)
    config = load_config(folder / "cluster.yaml")
    if find_head(state_root() / config.name):
        # Applying the demo to it would delete its models.
        console.print(f"a cluster named '{config.name}' is running on this machine; stop it with `etr down`")
        return 1
    began_s = time.perf_counter()
    try:
        _etr("up", str(folder / "cluster.yaml"))
        url = f"http://{config.http.host}:{config.http.port}"
        questions = read_queries(folder / "data" / "questions.jsonl")
        asyncio.run(ask_all(url, config.name, questions[:1]))
        start_s = time.perf_counter() - began_s
        asyncio.run(_show_answers(url, config, questions))
        with console.status(f"asking {len(questions)} test questions"):
            scores = asyncio.run(survey(url, config.name, questions))
        _show_table(scores)
        if sys.stdout.isatty():
            console.print(f"\nThe cluster still serves at {url}/v1 (see above). Press Ctrl-C to stop it.")
        _print_json(scores, build_s, start_s)
        if sys.stdout.isatty():
            with suppress(KeyboardInterrupt):
                signal.pause()
    finally:
        _etr("down", "--name", config.name)
    return 0


def prepare(folder: Path) -> float:
    """Build the models and learn the tokens, unless they are there. Returns the seconds that this took."""
    with showing_progress([spec.name for spec in SPECS]) as progress:
        report = build(folder, progress=progress)
    learned = folder / LEARNED
    if not learned.exists():
        began_s = time.perf_counter()
        _etr("learn", str(folder / "cluster.yaml"), "--data", str(folder / "data" / "learn.jsonl"))
        learned.write_text(json.dumps({"learn_s": time.perf_counter() - began_s}) + "\n", encoding="utf-8")
    return report.build_s + float(json.loads(learned.read_text(encoding="utf-8"))["learn_s"])


def _etr(*arguments: str) -> None:
    """Run the command that a user would type."""
    # In a new session, so that a signal to the demo does not interrupt the clean-up.
    subprocess.run([Path(sys.executable).with_name("etr"), *arguments], check=True, start_new_session=True)


async def _show_answers(url: str, config: ClusterConfig, questions: list[Query]) -> None:
    """Two questions for each expert, one with a greeting, and two general ones; a colour for each model."""
    by_expert: dict[str | None, list[Query]] = {}
    for question in questions:
        by_expert.setdefault(question.expert, []).append(question)
    shown = [q for group in by_expert.values() for q in (group[0], next(filter(_greeted, group), group[1]))]
    colours = dict(zip(["meta", *config.experts], ("white", *COLOURS), strict=False))
    console.print("\nQuestions, and which model wrote which part of the answer:\n")
    for question, reply in zip(shown, await ask_all(url, config.name, shown), strict=True):
        console.print(f"  {question.messages[-1]['content']}", style="dim", markup=False)
        for writer, text in reply.spans:
            console.print(f"    {writer:>10}  ", end="", style=f"bold {colours[writer]}")
            console.print(text, style=colours[writer], markup=False)


def _greeted(question: Query) -> bool:
    return question.expert is not None and question.written != ""


def _show_table(scores: Scores) -> None:
    table = Table("expert", "meta alone", "routed", "oracle", title="Share of test questions answered right")
    for expert, row in scores.by_expert.items():
        table.add_row(expert, *(f"{row[column]:.3f}" for column in ("meta", "routed", "oracle")))
    table.add_section()
    totals = (scores.meta_accuracy, scores.routed_accuracy, scores.oracle_accuracy)
    table.add_row("all", *(f"{accuracy:.3f}" for accuracy in totals))
    console.print()
    console.print(table)
    console.print(
        "meta alone: no hand-overs. routed: the meta decides. oracle: every question goes to its expert.\n"
        f"best single model for all questions: {scores.best_single_accuracy:.3f}\n"
        f"questions that reached the right expert: {scores.route_accuracy:.3f}\n"
        f"general questions wrongly handed over: {scores.false_trigger_rate:.3f}"
    )


def _print_json(scores: Scores, build_s: float, start_s: float) -> None:
    values = {key: value for key, value in asdict(scores).items() if key != "by_expert"}
    values |= {"build_s": round(build_s, 1), "start_s": round(start_s, 1)}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1])))
    except DemoError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:  # etr has printed the error
        sys.exit(error.returncode)
