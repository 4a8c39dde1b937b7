"""A cluster of the toy world's models for benchmarks, and the questions whose answers are checked."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from benchmarks.hot_change.answers import Question, ask
from cluster.local.ports import free_ports
from experts.learn import read_queries

NAME = "hot"
ENGINE = {"dtype": "float32", "max_model_len": 512, "max_streams": 32, "num_threads": 1}
RESOURCES = {"num_cpus": 0.1}
MIN_LONG_CHARS = 200


@dataclass(frozen=True)
class Script:
    """The experts at the start, and what happens to which expert."""

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


def write_world(folder: Path, toy: Path, script: Script) -> Path:
    """A cluster.yaml with the first experts. The tokens are copied, because one is replaced."""
    shutil.copytree(toy / "tokens", folder / "tokens")
    text = {
        "name": NAME,
        "meta": {"model": {"path": str(toy / "models" / "meta")}, "engine": ENGINE, "resources": RESOURCES},
        "experts": expert_blocks(toy, folder, script.first),
        "router": {"resources": RESOURCES},
        "http": {"port": free_ports(1)[0]},
    }
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
    return path


def expert_blocks(toy: Path, folder: Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "model": {"path": str(toy / "models" / name)},
            "token": str(folder / "tokens" / f"{name}.safetensors"),
            "engine": dict(ENGINE),
            "resources": dict(RESOURCES),
        }
        for name in names
    }


def routed_questions(toy: Path, script: Script, num_each: int) -> list[Question]:
    """Held-out questions, the topics in turn. Some begin with a greeting."""
    everything = read_queries(toy / "data" / "questions.jsonl")
    by_topic = [
        [query for query in everything if query.expert == topic][:num_each] for topic in script.topics
    ]
    return [
        Question.routed(query.messages[0]["content"], query.expert, NAME)
        for group in zip(*by_topic, strict=True)
        for query in group
    ]


async def long_question(http: httpx.AsyncClient, topic: str) -> Question:
    """A raw prompt that this expert continues at length. Only few prompts do that to a toy model."""
    for prompt in ("Hello", *"abcdefghijklmnopqrstuvwxyz"):
        question = Question.direct(prompt, topic, NAME)
        if len((await ask(http, question)).text) >= MIN_LONG_CHARS:
            return question
    raise RuntimeError(f"'{topic}' has no long answer to any prompt")


async def known_answers(
    http: httpx.AsyncClient, questions: Sequence[Question]
) -> dict[Question, frozenset[str]]:
    """The answers while nothing else happens. Raises RuntimeError if an answer fails."""
    answers = [await ask(http, question) for question in questions]
    errors = [answer.error for answer in answers if answer.error]
    if errors:
        raise RuntimeError(f"an answer failed before any change: {errors[0]}")
    return {answer.question: frozenset({answer.text}) for answer in answers}
