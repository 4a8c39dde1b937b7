"""A question with one right answer, greetings, and the split into training and test questions."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace
from typing import Literal

GENERAL = "general"
GREETINGS = ("Hi! ", "Hello! ", "Hey! ", "Hi there! ", "Good morning! ", "Hello, ", "Hi, ")
GREETING_BACK = "Hello! "
GREETED_SHARE = 0.15
HELD_OUT_SHARE = 0.15
VALIDATION_SHARE = 0.06

Part = Literal["train", "validation", "held_out"]


@dataclass(frozen=True)
class Question:
    """One prompt and its right answer. `answer` does not include the greeting of a greeted question."""

    domain: str
    question: str
    answer: str
    greeted: bool = False

    @property
    def expert(self) -> str | None:
        return None if self.domain == GENERAL else self.domain

    @property
    def written(self) -> str:
        """The words of the meta before an expert takes over."""
        return GREETING_BACK if self.greeted else ""

    @property
    def visible(self) -> str:
        """The whole answer as a user sees it."""
        return self.written + self.answer


@dataclass(frozen=True)
class Split:
    """Disjoint questions to train on, to validate the training, and to test with."""

    train: tuple[Question, ...]
    validation: tuple[Question, ...]
    held_out: tuple[Question, ...]


def greet(question: Question, rng: random.Random) -> Question:
    """The same question after a greeting. Its visible answer starts with a greeting, too."""
    greeting = rng.choice(GREETINGS)
    text = question.question
    if greeting.endswith(", ") and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    return replace(question, question=greeting + text, greeted=True)


def fraction(text: str) -> float:
    """A number in [0, 1) that depends only on the text, so that splits are the same everywhere."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) / 2**64


def part_of(text: str) -> Part:
    """The part of the split that `text` belongs to."""
    number = fraction(text)
    if number < HELD_OUT_SHARE:
        return "held_out"
    return "validation" if number < HELD_OUT_SHARE + VALIDATION_SHARE else "train"
