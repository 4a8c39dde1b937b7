"""The toy world's two question files: one to learn expert tokens from, one to test with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.toy.domains import DOMAINS, domain_split
from benchmarks.toy.question import GREETED_SHARE, Question, greet
from benchmarks.toy.smalltalk import smalltalk_split

NUM_LEARN_PER_EXPERT = 150
NUM_LEARN_GENERAL = 500
NUM_TEST_PER_EXPERT = 64
NUM_TEST_GENERAL = 200


def write_learn(path: Path) -> None:
    """Write training questions with reference answers as chat JSONL. A null `expert` marks a general
    query."""
    draw = random.Random("learn")
    questions = [
        *(q for domain in DOMAINS for q in draw.sample(domain_split(domain).train, NUM_LEARN_PER_EXPERT)),
        *draw.sample(smalltalk_split().train, NUM_LEARN_GENERAL),
    ]
    _write(path, (_row(question) for question in _some_greeted(questions, draw)))


def write_questions(path: Path) -> None:
    """Write the held-out questions in the same format."""
    _write(path, (_row(question) for question in held_out_questions()))


def held_out_questions() -> list[Question]:
    """The questions to test with. No model was trained on them."""
    draw = random.Random("questions")
    questions = [
        *(q for domain in DOMAINS for q in draw.sample(domain_split(domain).held_out, NUM_TEST_PER_EXPERT)),
        *draw.sample(smalltalk_split().held_out, NUM_TEST_GENERAL),
    ]
    return _some_greeted(questions, draw)


def _some_greeted(questions: Sequence[Question], draw: random.Random) -> list[Question]:
    return [q if q.greeted or draw.random() >= GREETED_SHARE else greet(q, draw) for q in questions]


def _row(question: Question) -> dict[str, Any]:
    messages = [
        {"role": "user", "content": question.question},
        {"role": "assistant", "content": question.visible},
    ]
    row = {"messages": messages, "expert": question.expert, "answer": question.answer}
    # The meta writes the greeting, and the expert continues.
    return row | {"written": question.written} if question.expert and question.written else row


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
