"""Change a cluster while clients stream from it: does anybody notice who is not concerned?

Serves the demo's models (`make demo` builds them) on a head of its own. While clients ask in closed loops, it
adds two experts, replaces the vector of one, removes one, and scales one to three replicas and back. Every
streamed answer has to be, character for character, one that was given in peace before or after all this; so
whatever is lost, broken off or sent twice is seen. Removal happens while streams of the leaving expert are
under way. Does not show how long a large model loads.
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

from benchmarks.hot.answers import Answer, Question, receive
from benchmarks.hot.changes import TIMEOUT_S, Changes
from benchmarks.hot.clients import Clients, loops_over
from benchmarks.hot.report import Run, show
from benchmarks.hot.watch import pids
from benchmarks.hot.world import (
    FULL,
    QUICK,
    Script,
    expert_blocks,
    known_answers,
    long_question,
    routed_questions,
    write_world,
)
from cluster.apply import apply
from cluster.config import load_config
from cluster.local import start_head, stop_head
from cluster.serve_client import ServeClient
from cluster.serve_config import expert_app
from cluster.session import until
from cluster.target import connect_to
from examples.demo.run import prepare

NUM_CPUS = 8
NO_LIMITS = httpx.Limits(max_connections=None)
NUM_LEAVING = 4  # streams that the removed expert is writing when it is removed


def main() -> None:
    arguments = _arguments()
    arguments.demo = arguments.demo.resolve()
    prepare(arguments.demo)
    with tempfile.TemporaryDirectory(prefix="etr-bench-") as scratch:
        folder = Path(scratch)
        script = QUICK if arguments.quick else FULL
        path = write_world(folder, arguments.demo, script)
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
    parser.add_argument("--demo", type=Path, default=Path(".cache/demo"), help="where the demo's models are")
    parser.add_argument("--num-clients", type=int, default=16)
    parser.add_argument("--num-questions", type=int, default=8, help="for each expert, and for none")
    parser.add_argument("--quick", action="store_true", help="one newcomer, two replicas")
    return parser.parse_args()


async def _measure(
    url: str, path: Path, client: ServeClient, script: Script, arguments: argparse.Namespace
) -> Run:
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=NO_LIMITS, trust_env=False) as http:
        routed = routed_questions(arguments.demo, script, arguments.num_questions)
        long, leaving = [await long_question(http, name) for name in (script.scaled, script.removed)]
        before = await known_answers(http, [*routed, long, leaving])
        clients = Clients(http, loops_over(routed, long, arguments.num_clients))
        changes = Changes(path, client, clients)
        pids_before, began_s = pids(client), time.monotonic()
        async with clients.asking():
            newcomers = await changes.add(expert_blocks(arguments.demo, path.parent, script.added))
            of_replaced = next(one for one in routed if one.topic == script.replaced)
            swapped_s = await changes.replace_token(script.replaced, of_replaced)
            left = await _remove(changes, script.removed, leaving)
            for num_replicas in (script.num_replicas, 1):
                await changes.scale(script.scaled, num_replicas)
        ended_s = time.monotonic()
        after = await known_answers(http, [*routed, long])
        return Run(
            began_s=began_s,
            ended_s=ended_s,
            num_clients=arguments.num_clients,
            steps=changes.steps,
            newcomers=newcomers,
            swapped_s=swapped_s,
            answers=sorted([*clients.answers, *left], key=lambda one: one.ended_s),
            known={question: texts | after.get(question, set()) for question, texts in before.items()},
            pids_before=pids_before,
            pids_after=pids(client),
            changed=frozenset(expert_app(name) for name in (*script.added, script.removed, script.scaled)),
        )


async def _remove(changes: Changes, name: str, long: Question) -> list[Answer]:
    """Removes the expert in the middle of long answers of its own, and returns them."""
    leaving = [Answer(long, time.monotonic()) for _ in range(NUM_LEAVING)]
    async with asyncio.TaskGroup() as streams:
        for one in leaving:
            streams.create_task(receive(changes.clients.http, one))
        # A request that came after the removal would rightly be told that there is no such model.
        if not await asyncio.to_thread(until, lambda: all(one.text for one in leaving), TIMEOUT_S, 0.01):
            raise TimeoutError(f"'{name}' does not begin to write")
        await changes.remove(name)
    return leaving


if __name__ == "__main__":
    main()
