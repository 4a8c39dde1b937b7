"""The demo: `python -m examples.smollm2.run` serves SmolLM2 with six experts, and asks it questions.

The questions are drawn anew in each run, from phrasings and inputs that no model was trained with.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.cli.print_stages import stages
from cluster.client.batch_chat import Reply, ask_models
from cluster.config.cluster_config import ClusterConfig, load_config
from cluster.local.head import find_head, state_root
from examples.smollm2.checkpoint import make_checkpoint
from examples.smollm2.errors import CheckpointError
from examples.smollm2.query_set import held_out_queries
from examples.smollm2.question import Question, is_right
from examples.smollm2.survey import Scores, survey
from experts.learn.queries import Query

CONFIG = Path(__file__).with_name("cluster.yaml")
CHECKPOINT = Path(__file__).resolve().parents[2] / ".cache" / "smollm2"  # the path in CONFIG
# Questions of each domain, and general ones. A full survey takes a quarter of an hour on two CPU cores.
QUICK_SIZE, FULL_SIZE = (6, 25), (50, 150)
SHOWN_MAX_TOKENS = 160
COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red")

console = Console(highlight=False)


def main(is_full: bool, seed: int) -> int:
    # Otherwise Ray would keep running when the terminal closes.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, frame: sys.exit(128 + number))
    began_s = time.perf_counter()
    make_checkpoint(CHECKPOINT, report=console.print)
    build_s = time.perf_counter() - began_s
    config = load_config(CONFIG)
    if find_head(state_root() / config.name):
        # Applying the demo to it would delete its models.
        console.print(f"a cluster named '{config.name}' is running on this machine; stop it with `etr down`")
        return 1
    try:
        scores, start_s = _serve_and_ask(
            config, held_out_queries(*(FULL_SIZE if is_full else QUICK_SIZE), seed)
        )
        _print_json(scores, build_s, start_s, seed)
        if sys.stdout.isatty():
            with suppress(KeyboardInterrupt):
                signal.pause()
    finally:
        _etr("down", "--name", config.name)
    return 0


def to_query(question: Question) -> Query:
    """Without the answer of general chat, which is not judged."""
    answer = question.answer if question.domain else None
    return Query(question.messages, question.domain, answer=answer)


def judge(query: Query, text: str) -> bool:
    """Whether `text` answers a query made by `to_query`, by the checker of its domain."""
    messages = tuple(dict(message) for message in query.messages)
    return is_right(Question(query.expert, messages, query.answer or ""), text)


def _serve_and_ask(config: ClusterConfig, questions: Sequence[Question]) -> tuple[Scores, float]:
    """The scores, and the seconds from built models to the first answer."""
    began_s = time.perf_counter()
    _etr("up", str(CONFIG))
    url = f"http://{config.http.host}:{config.http.port}"
    queries = [to_query(question) for question in questions]
    asyncio.run(ask_models(url, [config.name], queries[:1]))
    start_s = time.perf_counter() - began_s
    asyncio.run(_show_answers(url, config, queries))
    with stages(console) as progress:
        scores = asyncio.run(survey(url, config.name, queries, judge, progress))
    _show_table(scores)
    if sys.stdout.isatty():
        console.print(f"\nThe cluster still serves at {url}/v1 (see above). Press Ctrl-C to stop it.")
    return scores, start_s


def _etr(*arguments: str) -> None:
    """Run the command that a user would type."""
    # In a new session, so that a signal to the demo does not interrupt the clean-up.
    subprocess.run([Path(sys.executable).with_name("etr"), *arguments], check=True, start_new_session=True)


async def _show_answers(url: str, config: ClusterConfig, queries: Sequence[Query]) -> None:
    """One question for each expert, a follow-up in a conversation, and two general ones."""
    asked = shown(queries)
    replies = await ask_models(url, [config.name], asked, max_tokens=SHOWN_MAX_TOKENS)
    colours = dict(zip(["meta", *config.experts], ("white", *COLOURS), strict=False))
    console.print("\nQuestions, and which model wrote which part of the answer:\n")
    for query, reply in zip(asked, replies[config.name], strict=True):
        _show_answer(query, reply, colours)


def shown(queries: Sequence[Query]) -> list[Query]:
    single = [query for query in queries if len(query.messages) == 1]
    experts = sorted({query.expert for query in queries if query.expert is not None})
    chosen = [next(query for query in single if query.expert == expert) for expert in experts]
    chosen += [query for query in queries if query.expert and len(query.messages) > 1][:1]
    return chosen + [query for query in single if query.expert is None][:2]


def _show_answer(query: Query, reply: Reply, colours: dict[str, str]) -> None:
    for message in query.messages:
        console.print(f"  {message['role']:>10}  {message['content']}", style="dim", markup=False)
    for writer, text in reply.spans:
        console.print(f"  {writer:>10}  ", end="", style=f"bold {colours[writer]}")
        console.print(text, style=colours[writer], markup=False)
    console.print()


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


def _print_json(scores: Scores, build_s: float, start_s: float, seed: int) -> None:
    values = {key: value for key, value in asdict(scores).items() if key != "by_expert"}
    values |= {"build_s": round(build_s, 1), "start_s": round(start_s, 1), "seed": seed}
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}), flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="ask 450 questions instead of 61")
    parser.add_argument(
        "--seed", type=int, default=random.randrange(10**6), help="of the questions; drawn if not given"
    )
    return parser.parse_args()


if __name__ == "__main__":
    arguments = _arguments()
    try:
        sys.exit(main(arguments.full, arguments.seed))
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:  # etr has printed the error
        sys.exit(error.returncode)
