"""Two releases in one cluster: another one replaces models, then routers, and back, while clients ask.

The other release is the wheel of a git revision, or this tree with fields that a later release might add. All
clients stream greedy answers over a hand-over, and each answer must equal, character for character, the one
before the changes. Prints a table and, last, one JSON line. The exit code is 1 if an answer does not.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.chaos.clients import asking
from benchmarks.chaos.replies import Ending, Known, ask_all, client, endings, failure_examples
from benchmarks.hot_change.answers import Question
from benchmarks.models import save_random_model, save_winning_token
from benchmarks.serving import Cluster, served, wait_until_ready
from benchmarks.upgrade.release import other_release
from cluster.config.cluster_config import load_config
from cluster.local.ports import free_ports
from cluster.serve.deploy_config import build_serve_config

NAME, EXPERT = "generalist", "writer"
NUM_QUESTIONS, MAX_TOKENS = 8, 200
SETTLED_S = 3.0
# Replicas start on the cores that answer.
DEADLINES = {"queue_s": 240.0, "first_token_s": 60.0, "gap_s": 30.0, "total_s": 600.0}
STEPS: dict[str, dict[str, bool]] = {
    "models: other release": {"models": True, "router": False},
    "routers: other release": {"models": True, "router": True},
    "models: this release": {"models": False, "router": True},
    "routers: this release": {"models": False, "router": False},
}


@dataclass(frozen=True)
class Step:
    name: str
    took_s: float
    num_by_ending: dict[str, int]
    examples: list[str]

    @property
    def num_failed(self) -> int:
        return sum(self.num_by_ending.values()) - self.num_by_ending[Ending.WHOLE]


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-upgrade-") as folder:
        code = other_release(Path(folder), arguments.revision)
        with served(_deploy_config) as cluster:
            steps = asyncio.run(_upgrade(cluster, code, arguments.num_streams))
    _show(steps)
    result = {step.name: {"took_s": round(step.took_s, 1), **step.num_by_ending} for step in steps}
    print(json.dumps({"benchmark": "upgrade", "num_streams": arguments.num_streams, "steps": result}))
    sys.exit(any(step.num_failed for step in steps))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--revision", help="of git, for the other release")
    parser.add_argument("--num-streams", type=int, default=32)
    return parser.parse_args()


def _deploy_config(folder: Path) -> dict[str, Any]:
    for seed, name in enumerate(("meta", EXPERT)):
        save_random_model(folder / name, hidden_size=64, num_layers=2, seed=seed)
    token = save_winning_token(folder / "meta", EXPERT, folder)
    # Two replicas each: Serve stops one before it starts its successor.
    shared = {
        "autoscaling": {"min_replicas": 2, "max_replicas": 2},
        "resources": {"num_cpus": 0.1},
    }
    model = {
        **shared,
        "engine": {"dtype": "float32", "num_threads": 1, "max_streams": 32, "max_model_len": 512},
    }
    text = {
        "name": NAME,
        "meta": {"model": {"path": "meta"}, **model},
        "experts": {
            EXPERT: {"model": {"path": EXPERT}, "token": str(token), "on_unavailable": "wait", **model}
        },
        "routing": {"deadlines": DEADLINES},
        "router": shared,
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(text))), encoding="utf-8")
    return build_serve_config(load_config(path))


async def _upgrade(cluster: Cluster, code: Path, num_streams: int) -> list[Step]:
    questions = [Question.routed(f"question {i}?", EXPERT, NAME, MAX_TOKENS) for i in range(NUM_QUESTIONS)]
    async with client(cluster.url) as http:
        replies = await ask_all(http, questions, 1)
        known = {reply.answer.question: {reply.answer.text} for reply in replies}
        if problems := failure_examples(replies, known):
            raise RuntimeError(f"before the upgrade: {problems}")
        return [
            await _step(cluster, _with_code(cluster.deploy, code, which), name, questions, known, num_streams)
            for name, which in STEPS.items()
        ]


async def _step(
    cluster: Cluster,
    deploy: dict[str, Any],
    name: str,
    questions: Sequence[Question],
    known: Known,
    num_streams: int,
) -> Step:
    began_s = time.monotonic()
    async with client(cluster.url) as http, asking(http, questions, num_streams) as replies:
        await asyncio.to_thread(cluster.client.put, deploy)
        await asyncio.to_thread(wait_until_ready, cluster.client, cluster.url, deploy)
        await asyncio.sleep(SETTLED_S)
    return Step(name, time.monotonic() - began_s, endings(replies, known), failure_examples(replies, known))


def _with_code(deploy: dict[str, Any], code: Path, which: dict[str, bool]) -> dict[str, Any]:
    """`which`: whether models and routers run the other release."""
    changed = copy.deepcopy(deploy)
    for app in changed["applications"]:
        if which["router" if app["name"] == "router" else "models"]:
            app["runtime_env"] = {"env_vars": {"PYTHONPATH": str(code)}}
    return changed


def _show(steps: Sequence[Step]) -> None:
    table = Table("step", "s", *(ending.value for ending in Ending))
    for step in steps:
        table.add_row(step.name, f"{step.took_s:.0f}", *map(str, step.num_by_ending.values()))
    console = Console()
    console.print(table)
    for step in steps:
        for example in step.examples:
            console.print(f"{step.name}: {example}")


if __name__ == "__main__":
    main()
