"""A question, its right answer, and the split into questions to train on and questions to test with."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

Part = Literal["train", "held_out"]
PARTS: tuple[Part, ...] = ("train", "held_out")
HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Question:
    """A conversation that ends with a user's message, and the right answer to it.

    `domain`: the expert that should answer. None: general chat, which no expert should take and whose
    answer ("") is not judged.
    """

    domain: str | None
    messages: tuple[dict[str, str], ...]
    answer: str

    @property
    def text(self) -> str:
        """The user's last message."""
        return self.messages[-1]["content"]


def is_right(question: Question, text: str) -> bool:
    """Whether `text` answers the question, by the checker of its domain.

    Raises ValueError for general chat, which has no right answer.
    """
    # Imported late, because the domains import this module.
    from examples.smollm2.domains import DOMAINS

    if question.domain is None:
        raise ValueError(
            "question.domain: general chat has no right answer; judge only questions of a domain"
        )
    return DOMAINS[question.domain].is_right(question, text)


def part_of(text: str) -> Part:
    """The part that an input belongs to. It depends only on the text, so that it is the same everywhere."""
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return "held_out" if int.from_bytes(digest) / 2**64 < HELD_OUT_SHARE else "train"
