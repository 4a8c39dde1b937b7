"""A small cluster of several nodes on this machine, for faults.

A trained meta hands over to two experts with random weights, which write as many tokens as requested. So an
answer is long enough for a fault in its middle, and its text shows whether a part is missing.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from benchmarks.chaos.census import Census, census
from benchmarks.chaos.replicas import Replica, is_settled, running
from benchmarks.chaos.replies import Known, ask_all, client, failure_examples
from benchmarks.hot_change.answers import Question
from benchmarks.models import save_random_model
from cluster.config.cluster_config import load_config
from cluster.config.config_editor import set_values
from cluster.local.ports import free_ports
from cluster.polling import until
from cluster.serve.apply import apply
from cluster.serve.client import ServeClient
from cluster.serve.connect import connect_to
from experts.learn import read_queries
from tests.support.raylets import Offer, Raylets, raylets

NAME = "chaos"
# On disk. Otherwise a restarted head does not know what ran.
STORE = {"RAY_gcs_storage": "rocksdb"}
LAYERS = {"capitals": 1, "roman": 2}  # of the experts; so their weights differ
ENGINE = {"dtype": "float32", "num_threads": 1}
MAX_STREAMS = 16
RESOURCES = {"num_cpus": 0.1}
# Long, because the same cores serve everything and restart what was killed.
DEADLINES = {"queue_s": 240.0, "first_token_s": 60.0, "gap_s": 30.0, "total_s": 600.0, "wake_s": 120.0}
SETTLE_TIMEOUT_S = 180.0
POLL_S = 0.1

Settings = dict[Sequence[str], Any]


@dataclass
class World:
    """`known`: the answer to each question without faults. `ending`: what to undo at the end."""

    url: str
    path: Path
    client: ServeClient
    nodes: Raylets
    questions: Sequence[Question]
    ending: ExitStack
    known: Known = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _of: dict[tuple[str | None, int | None], list[Question]] = field(default_factory=dict)

    @property
    def gcs_address(self) -> str:
        return Path(self.nodes.head.temp_dir, "ray_current_cluster").read_text(encoding="utf-8").strip()

    def running(self, app: str | None = None) -> list[Replica]:
        return running(self.client, app)

    async def census(self) -> Census:
        return await asyncio.to_thread(census, self.gcs_address, self.nodes.head.auth_token)

    def of(self, topic: str | None, max_tokens: int | None = None) -> list[Question]:
        """The questions for this expert. None: those that the meta answers itself.

        The same arguments give the same objects, because `known` is keyed by the object.
        """
        key = (topic, max_tokens)
        if key not in self._of:
            found = [question for question in self.questions if question.topic == topic]
            if max_tokens is not None:
                found = [with_max_tokens(question, max_tokens) for question in found]
            self._of[key] = found
        return self._of[key]

    async def change(self, values: Settings) -> None:
        """Set values in cluster.yaml and apply it."""
        set_values(self.path, values)
        await self.apply()

    async def restore(self, text: str) -> None:
        """Restore cluster.yaml and apply it. The next scenario waits for the replicas that this starts."""
        self.path.write_text(text, encoding="utf-8")
        await self.apply()

    async def apply(self) -> None:
        await asyncio.to_thread(lambda: apply(load_config(self.path), self.client, poll_s=0.25))

    async def settled(self) -> None:
        """Wait until every application has its replicas. Raises TimeoutError."""
        await eventually(lambda: is_settled(self.client), "the cluster did not settle", SETTLE_TIMEOUT_S)

    async def add_node(self) -> str:
        name = f"later-{next(self._numbers)}"
        await asyncio.to_thread(lambda: self.nodes.add(**{name: Offer(num_cpus=2)}))
        return name

    async def record_known_answers(self, questions: Sequence[Question], num_at_once: int) -> None:
        """Ask the new questions without faults: one at a time, then `num_at_once` at a time.

        Raises RuntimeError if an answer fails, or if its two texts differ.
        """
        await self.settled()
        new = [question for question in questions if question not in self.known]
        async with client(self.url) as http:
            alone = await ask_all(http, new, 1)
            self.known = {**self.known, **{reply.answer.question: {reply.answer.text} for reply in alone}}
            together = await ask_all(http, new, num_at_once)
        failed = [reply.describe() for reply in alone if reply.answer.error]
        if problems := failed or failure_examples(together, self.known):
            raise RuntimeError(f"without faults, not every answer was the same twice: {problems}")


def with_max_tokens(question: Question, max_tokens: int) -> Question:
    return Question(question.topic, question.path, {**question.body, "max_tokens": max_tokens})


async def polled(condition: Callable[[], Awaitable[bool]], otherwise: str, timeout_s: float) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{otherwise} within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)


async def eventually(condition: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
    """Wait for a condition that is checked in a thread. Raises TimeoutError."""
    if not await asyncio.to_thread(until, condition, timeout_s, 0.25):
        raise TimeoutError(f"{otherwise} within {timeout_s:g} s")


@contextmanager
def served(
    folder: Path,
    trained: Path,
    *,
    num_nodes: int,
    num_questions: int,
    max_tokens: int,
    experts: Sequence[str] = tuple(LAYERS),
    outlives_head: bool = False,
) -> Iterator[World]:
    """Serve two replicas of the router, of the trained meta and of each expert.

    `trained`: the toy world's folder, or one with models, tokens and questions in the same places. There are
    `num_questions` for the meta and for each expert, each with `max_tokens`.

    `outlives_head`: clients send to a worker node, at its own port, so there may be only one worker node.
    """
    path = write_config(folder, trained, experts, "0.0.0.0" if outlives_head else "127.0.0.1")
    env = {**STORE, "RAY_gcs_storage_path": str(folder / "store")}
    if outlives_head:
        (port,) = free_ports(1)
        env["RAY_SERVE_WORKER_PROXY_HTTP_PORT"] = str(port)
    with raylets(folder, env) as nodes, ExitStack() as ending:
        nodes.add(**{f"first-{i}": Offer(num_cpus=2) for i in range(num_nodes)})
        with connect_to(nodes.head) as serve:
            url = apply(load_config(path), serve, poll_s=0.25)
            if outlives_head:
                url = f"http://127.0.0.1:{port}"
            questions = chat_questions(trained, experts, num_questions, max_tokens)
            yield World(url, path, serve, nodes, questions, ending)


def write_config(folder: Path, trained: Path, experts: Sequence[str], host: str = "127.0.0.1") -> Path:
    served = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "resources": RESOURCES}
    blocks = {}
    for name in experts:
        model = folder / "models" / name
        save_random_model(model, hidden_size=64, num_layers=LAYERS[name], max_model_len=2048)
        blocks[name] = {
            "model": {"path": f"models/{name}"},
            "token": str(trained / "tokens" / f"{name}.safetensors"),
            "engine": {**ENGINE, "max_streams": MAX_STREAMS, "max_model_len": 2048},
            "on_unavailable": "wait",
            **served,
        }
    engine = {**ENGINE, "max_streams": MAX_STREAMS, "max_model_len": 512}
    text = {
        "name": NAME,
        "meta": {"model": {"path": str(trained / "models" / "meta")}, "engine": engine, **served},
        "experts": blocks,
        "routing": {"deadlines": DEADLINES},
        "router": served,
        "http": {"host": host, "port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(_without_anchors(text), encoding="utf-8")
    return path


def chat_questions(trained: Path, experts: Sequence[str], num_each: int, max_tokens: int) -> list[Question]:
    """Held-out questions, the topics in turn."""
    everything = read_queries(trained / "data" / "questions.jsonl")
    topics = [
        [query for query in everything if query.expert == topic][:num_each] for topic in (None, *experts)
    ]
    return [
        Question.routed(query.messages[0]["content"], query.expert, NAME, max_tokens)
        for group in zip(*topics, strict=True)
        for query in group
    ]


def _without_anchors(text: Mapping[str, Any]) -> str:
    """YAML without anchors, because an alias cannot be edited safely."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump(text, Dumper=Plain, sort_keys=False))
