"""The demo's models in a cluster of a benchmark's own, and the questions whose answers are watched."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.hot.answers import Question, ask
from cluster.ports import free_ports
from experts.learn import read_queries

NAME = "hot"
ENGINE = {"dtype": "float32", "max_model_len": 512, "max_streams": 32, "num_threads": 1}
RESOURCES = {"num_cpus": 0.1}
LONG = 200  # characters at the least


@dataclass(frozen=True)
class Script:
    """Which experts are there at first, and what happens to whom."""

    first: tuple[str, ...]
    added: tuple[str, ...]
    replaced: str
    removed: str
    scaled: str
    num_replicas: int

    @property
    def topics(self) -> tuple[str | None, ...]:
        return (None, *self.first, *self.added)


FULL = Script(
    ("roman", "morse", "bases", "capitals"), ("chemistry", "calendar"), "morse", "capitals", "roman", 3
)
QUICK = Script(("roman", "capitals"), ("chemistry",), "roman", "capitals", "roman", 2)


def write_world(folder: Path, demo: Path, script: Script) -> Path:
    """A cluster.yaml with the first experts; every token is copied, for one of them is replaced."""
    shutil.copytree(demo / "tokens", folder / "tokens")
    text = {
        "name": NAME,
        "meta": {"model": {"path": str(demo / "models" / "meta")}, "engine": ENGINE, "resources": RESOURCES},
        "experts": expert_blocks(demo, folder, script.first),
        "router": {"resources": RESOURCES},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return path


def expert_blocks(demo: Path, folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "model": {"path": str(demo / "models" / name)},
            "token": str(folder / "tokens" / f"{name}.safetensors"),
            "engine": dict(ENGINE),
            "resources": dict(RESOURCES),
        }
        for name in names
    }


def routed_questions(demo: Path, script: Script, num_each: int) -> list[Question]:
    """Held-out questions of every topic in turn, some of them greeted."""
    everything = read_queries(demo / "data" / "questions.jsonl")
    by_topic = [[one for one in everything if one.expert == topic][:num_each] for topic in script.topics]
    return [
        Question.routed(one.messages[0]["content"], one.expert, NAME)
        for group in zip(*by_topic, strict=True)
        for one in group
    ]


async def long_question(http: httpx.AsyncClient, topic: str) -> Question:
    """A raw text that this expert goes on with at length: such models ramble after few of them."""
    for prompt in ("Hello", *"abcdefghijklmnopqrstuvwxyz"):
        question = Question.direct(prompt, topic, NAME)
        if len((await ask(http, question)).text) >= LONG:
            return question
    raise RuntimeError(f"'{topic}' has nothing long to say")


async def known_answers(
    http: httpx.AsyncClient, questions: Sequence[Question]
) -> dict[Question, frozenset[str]]:
    """What each is answered while nothing else happens. Raises RuntimeError where one is not."""
    answers = [await ask(http, question) for question in questions]
    broken = [answer.error for answer in answers if answer.error]
    if broken:
        raise RuntimeError(f"a quiet cluster failed to answer: {broken[0]}")
    return {answer.question: frozenset({answer.text}) for answer in answers}
