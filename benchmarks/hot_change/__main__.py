"""Change a cluster while clients stream from it: does a client notice a change that does not concern it?

Serves the toy world's models on its own Ray head. While clients ask in closed loops,
two experts are added, the vector of one is replaced, one is removed, and one is scaled to three replicas
and back. Every streamed answer must equal, character for character, the answer to the same question before or
after all changes. So text that is lost, cut off or sent twice is detected. The expert is removed while it
streams answers. How long a large model takes to load is not measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import httpx
from rich.console import Console

from benchmarks.hot_change.answers import Answer, Question, receive
from benchmarks.hot_change.changes import TIMEOUT_S, Changes
from benchmarks.hot_change.clients import Clients, loops_over
from benchmarks.hot_change.report import Run, show
from benchmarks.hot_change.watch import pids
from benchmarks.hot_change.world import (
    FULL,
    QUICK,
    Script,
    expert_blocks,
    known_answers,
    long_question,
    routed_questions,
    write_world,
)
from benchmarks.toy.world import prepare
from cluster.config.cluster_config import load_config
from cluster.local.head import start_head, stop_head
from cluster.polling import until
from cluster.serve.app_names import expert_app
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to

NUM_CPUS = 8
NO_LIMITS = httpx.Limits(max_connections=None)
NUM_LONG_STREAMS = 4  # that the expert writes when it is removed


def main() -> None:
    arguments = _arguments()
    arguments.toy = arguments.toy.resolve()
    prepare(arguments.toy)
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch)
        script = QUICK if arguments.quick else FULL
        path = write_world(folder, arguments.toy, script)
        head = start_head(folder / "state", num_cpus=NUM_CPUS)
        try:
            with connect_to(head) as client:
                url = apply(load_config(path), client)
                run = asyncio.run(_measure(url, path, client, script, arguments))
        finally:
            stop_head(folder / "state")
    show(Console(), run)
    print(json.dumps(run.as_json()))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--toy", type=Path, default=Path(".cache/toy"), help="the toy world's folder")
    parser.add_argument("--num-clients", type=int, default=16)
    parser.add_argument("--num-questions", type=int, default=8, help="for each expert and for general chat")
    parser.add_argument("--quick", action="store_true", help="one new expert, two replicas")
    return parser.parse_args()


async def _measure(
    url: str, path: Path, client: ServeClient, script: Script, arguments: argparse.Namespace
) -> Run:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=NO_LIMITS, trust_env=False) as http:
        routed = routed_questions(arguments.toy, script, arguments.num_questions)
        long, of_removed = [await long_question(http, name) for name in (script.scaled, script.removed)]
        before = await known_answers(http, [*routed, long, of_removed])
        clients = Clients(http, loops_over(routed, long, arguments.num_clients))
        changes = Changes(path, client, clients)
        pids_before, began_s = pids(client), time.monotonic()
        async with clients.asking():
            new_experts = await changes.add(expert_blocks(arguments.toy, path.parent, script.added))
            of_replaced = next(question for question in routed if question.topic == script.replaced)
            token_replaced_s = await changes.replace_token(script.replaced, of_replaced)
            last_answers = await _remove(changes, script.removed, of_removed)
            for num_replicas in (script.num_replicas, 1):
                await changes.scale(script.scaled, num_replicas)
        ended_s = time.monotonic()
        after = await known_answers(http, [*routed, long])
        return Run(
            began_s=began_s,
            ended_s=ended_s,
            num_clients=arguments.num_clients,
            steps=changes.steps,
            new_experts=new_experts,
            token_replaced_s=token_replaced_s,
            answers=sorted([*clients.answers, *last_answers], key=lambda answer: answer.ended_s),
            known={question: texts | after.get(question, set()) for question, texts in before.items()},
            pids_before=pids_before,
            pids_after=pids(client),
            changed=frozenset(expert_app(name) for name in (*script.added, script.removed, script.scaled)),
        )


async def _remove(changes: Changes, name: str, long: Question) -> list[Answer]:
    """Remove the expert while it writes long answers. Returns these answers."""
    answers = [Answer(long, time.monotonic()) for _ in range(NUM_LONG_STREAMS)]
    async with asyncio.TaskGroup() as streams:
        for answer in answers:
            streams.create_task(receive(changes.clients.http, answer))
        # A request after the removal would rightly get the error that the model does not exist.
        has_begun = await asyncio.to_thread(until, lambda: all(a.text for a in answers), TIMEOUT_S, 0.01)
        if not has_begun:
            raise TimeoutError(f"'{name}' did not begin to write within {TIMEOUT_S:g} s")
        await changes.remove(name)
    return answers


if __name__ == "__main__":
    main()
