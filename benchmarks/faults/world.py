"""A cluster of several nodes on this machine, small enough to be broken again and again.

The demo's meta hands over to two experts with random weights, which write as much as they are asked for: an
answer takes long enough to lose its writer, and says by its very text whether a piece is missing.
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

from benchmarks.faults.census import Census, census
from benchmarks.faults.replicas import Replica, is_settled, running
from benchmarks.faults.replies import Known, ask_all, client, not_whole
from benchmarks.hot.answers import Question
from benchmarks.models import save_random_model
from cluster.apply import apply
from cluster.config import load_config
from cluster.ports import free_ports
from cluster.serve_client import ServeClient
from cluster.session import until
from cluster.target import connect_to
from cluster.yaml_edit import set_values
from experts.learn import read_queries
from tests.raylets import Offer, Raylets, raylets

NAME = "chaos"
# Without it a head that lost its store knows nothing of what ran.
STORE = {"RAY_gcs_storage": "rocksdb"}
LAYERS = {"capitals": 1, "roman": 2}  # experts; not the same weights
ENGINE = {"dtype": "float32", "num_threads": 1}
MAX_STREAMS = 16
RESOURCES = {"num_cpus": 0.1}
# Two cores serve everything and start what was killed: what is slow here is not yet lost.
DEADLINES = {"queue_s": 240.0, "first_token_s": 60.0, "gap_s": 30.0, "total_s": 600.0, "wake_s": 120.0}
SETTLE_TIMEOUT_S = 180.0
POLL_S = 0.1

Settings = dict[Sequence[str], Any]


@dataclass
class World:
    """`known`: what each question is answered in peace. `ending`: what is to be undone at the end."""

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
        """The questions that the meta hands to this expert; None: those that it answers itself.

        The same ones for the same arguments: what is `known` goes by the question itself.
        """
        key = (topic, max_tokens)
        if key not in self._of:
            found = [one for one in self.questions if one.topic == topic]
            self._of[key] = found if max_tokens is None else [lengthened(one, max_tokens) for one in found]
        return self._of[key]

    async def change(self, values: Settings) -> None:
        """Set places of cluster.yaml and apply it."""
        set_values(self.path, values)
        await self.apply()

    async def restore(self, text: str) -> None:
        """Make cluster.yaml what it was and apply it. What comes next waits for what that starts."""
        self.path.write_text(text, encoding="utf-8")
        await self.apply()

    async def apply(self) -> None:
        await asyncio.to_thread(lambda: apply(load_config(self.path), self.client, poll_s=0.25))

    async def settled(self) -> None:
        """Every application has the replicas that it should. Raises TimeoutError."""
        await eventually(lambda: is_settled(self.client), "the cluster does not settle", SETTLE_TIMEOUT_S)

    async def add_node(self) -> str:
        name = f"later-{next(self._numbers)}"
        await asyncio.to_thread(lambda: self.nodes.add(**{name: Offer(num_cpus=2)}))
        return name

    async def learn_known(self, questions: Sequence[Question], num_at_once: int) -> None:
        """Ask those that are new in peace: one at a time, then together, as they will be asked later.

        Raises RuntimeError where one fails, or where the two texts differ.
        """
        await self.settled()
        new = [one for one in questions if one not in self.known]
        async with client(self.url) as http:
            alone = await ask_all(http, new, 1)
            self.known = {**self.known, **{one.answer.question: {one.answer.text} for one in alone}}
            together = await ask_all(http, new, num_at_once)
        if bad := [one.told() for one in alone if one.answer.error] or not_whole(together, self.known):
            raise RuntimeError(f"a quiet cluster does not give every answer twice: {bad}")


def lengthened(question: Question, max_tokens: int) -> Question:
    return Question(question.topic, question.path, {**question.body, "max_tokens": max_tokens})


async def polled(condition: Callable[[], Awaitable[bool]], otherwise: str, timeout_s: float) -> None:
    """Wait for a condition. Raises TimeoutError."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"{otherwise} within {timeout_s:g} s")
        await asyncio.sleep(POLL_S)


async def eventually(condition: Callable[[], bool], otherwise: str, timeout_s: float) -> None:
    """Wait for a condition that is looked at in a thread. Raises TimeoutError."""
    if not await asyncio.to_thread(until, condition, timeout_s, 0.25):
        raise TimeoutError(f"{otherwise} within {timeout_s:g} s")


@contextmanager
def served(
    folder: Path,
    demo: Path,
    *,
    num_nodes: int,
    num_questions: int,
    max_tokens: int,
    experts: Sequence[str] = tuple(LAYERS),
    outlives_head: bool = False,
) -> Iterator[World]:
    """Two replicas of the router, of the demo's meta and of each expert, who writes `max_tokens`;
    `num_questions` for each expert and for the meta.

    `outlives_head`: clients ask a worker node, at a port of its own; so there may be one such node only.
    """
    path = write_config(folder, demo, experts, "0.0.0.0" if outlives_head else "127.0.0.1")
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
            questions = chat_questions(demo, experts, num_questions, max_tokens)
            yield World(url, path, serve, nodes, questions, ending)


def write_config(folder: Path, demo: Path, experts: Sequence[str], host: str = "127.0.0.1") -> Path:
    served = {"autoscaling": {"min_replicas": 2, "max_replicas": 2}, "resources": RESOURCES}
    blocks = {}
    for name in experts:
        model = folder / "models" / name
        save_random_model(model, hidden_size=64, num_layers=LAYERS[name], max_model_len=2048)
        blocks[name] = {
            "model": {"path": f"models/{name}"},
            "token": str(demo / "tokens" / f"{name}.safetensors"),
            "engine": {**ENGINE, "max_streams": MAX_STREAMS, "max_model_len": 2048},
            "when_away": "wait",
            **served,
        }
    engine = {**ENGINE, "max_streams": MAX_STREAMS, "max_model_len": 512}
    text = {
        "name": NAME,
        "meta": {"model": {"path": str(demo / "models" / "meta")}, "engine": engine, **served},
        "experts": blocks,
        "routing": {"deadlines": DEADLINES},
        "router": served,
        "http": {"host": host, "port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(_as_yaml(text), encoding="utf-8")
    return path


def chat_questions(demo: Path, experts: Sequence[str], num_each: int, max_tokens: int) -> list[Question]:
    """Held-out questions of every topic in turn."""
    everything = read_queries(demo / "data" / "questions.jsonl")
    topics = [[one for one in everything if one.expert == topic][:num_each] for topic in (None, *experts)]
    return [
        Question.routed(one.messages[0]["content"], one.expert, NAME, max_tokens)
        for group in zip(*topics, strict=True)
        for one in group
    ]


def _as_yaml(text: Mapping[str, Any]) -> str:
    """Without anchors: an alias cannot be edited safely."""

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump(text, Dumper=Plain, sort_keys=False))
