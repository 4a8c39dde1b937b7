"""Ask a served demo world its held-out questions, over HTTP, and score the answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

CONCURRENCY = 16
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class TestQuestion:
    """`answer` is the whole visible answer; `expert` None is general chat, which nobody takes over."""

    __test__ = False  # not a test case, whatever pytest thinks of the name
    question: str
    answer: str | None
    expert: str | None


@dataclass(frozen=True)
class Reply:
    text: str
    writers: tuple[str, ...]
    spans: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Scores:
    """Shares of the questions, 0 to 1. The accuracies count answers exactly right: the oracle sends each
    question to its own expert, `best_single` is the best one model for all of them."""

    meta_accuracy: float
    routed_accuracy: float
    oracle_accuracy: float
    best_single_accuracy: float
    route_accuracy: float
    false_trigger_rate: float
    num_questions: int
    by_expert: Mapping[str, Mapping[str, float]]


def read_questions(path: Path) -> list[TestQuestion]:
    return [TestQuestion(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]


async def ask_all(url: str, model: str, questions: Iterable[TestQuestion]) -> list[Reply]:
    """Greedy answers of `model`, in order."""
    limit = asyncio.Semaphore(CONCURRENCY)
    async with httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, trust_env=False) as client:

        async def ask(question: TestQuestion) -> Reply:
            async with limit:
                return await _ask(client, model, question.question)

        return list(await asyncio.gather(*(ask(question) for question in questions)))


async def survey(url: str, name: str, questions: Sequence[TestQuestion]) -> Scores:
    """Every question to the generalist; the experts' questions to each model alone as well."""
    known = [question for question in questions if question.expert]
    experts = sorted({question.expert for question in known if question.expert})
    routed = await ask_all(url, name, questions)
    alone = {model: await ask_all(url, f"{name}/{model}", known) for model in ["meta", *experts]}
    routed_known = [reply for reply, question in zip(routed, questions, strict=True) if question.expert]
    oracle = [alone[question.expert][i] for i, question in enumerate(known) if question.expert]
    return Scores(
        meta_accuracy=_accuracy(alone["meta"], known),
        routed_accuracy=_accuracy(routed_known, known),
        oracle_accuracy=_accuracy(oracle, known),
        best_single_accuracy=max(_accuracy(replies, known) for replies in alone.values()),
        route_accuracy=_share(
            reply.writers[-1] == q.expert for reply, q in zip(routed_known, known, strict=True)
        ),
        false_trigger_rate=_share(
            reply.writers != ("meta",) for reply, q in zip(routed, questions, strict=True) if q.expert is None
        ),
        num_questions=len(questions),
        by_expert={
            expert: {
                column: _accuracy(*_of(expert, replies, known))
                for column, replies in (("meta", alone["meta"]), ("routed", routed_known), ("oracle", oracle))
            }
            for expert in experts
        },
    )


async def _ask(client: httpx.AsyncClient, model: str, question: str) -> Reply:
    response = await client.post(
        "/v1/chat/completions",
        json={
            "model": model,
            "messages": [{"role": "user", "content": question}],
            "temperature": 0,
            "max_tokens": 64,
            "routing": {"trace": True},
        },
    )
    response.raise_for_status()
    body = response.json()
    spans = tuple((span["model"], span["text"]) for span in body["choices"][0]["routing"]["spans"])
    return Reply(body["choices"][0]["message"]["content"], tuple(body["usage"]["models"]), spans)


def _of(
    expert: str, replies: Sequence[Reply], questions: Sequence[TestQuestion]
) -> tuple[list[Reply], list[TestQuestion]]:
    chosen = [i for i, question in enumerate(questions) if question.expert == expert]
    return [replies[i] for i in chosen], [questions[i] for i in chosen]


def _accuracy(replies: Sequence[Reply], questions: Sequence[TestQuestion]) -> float:
    return _share(
        _bare(reply.text) == _bare(question.answer or "")
        for reply, question in zip(replies, questions, strict=True)
    )


def _bare(answer: str) -> str:
    """Without the greeting: an expert asked alone need not greet back to be right."""
    return answer.strip().removeprefix("Hello!").strip()


def _share(outcomes: Iterable[bool]) -> float:
    counted = list(outcomes)
    return sum(counted) / len(counted) if counted else 0.0
