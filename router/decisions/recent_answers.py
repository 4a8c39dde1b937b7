"""The answers that feedback may be about, as far as one router remembers them."""

from __future__ import annotations

import uuid
from collections import OrderedDict
from dataclasses import dataclass

MAX_ANSWERS = 10_000


@dataclass(frozen=True, slots=True)
class RecentAnswer:
    """`key` is the name of the API key, empty without keys; `target` the expert that the meta handed over to
    first, None if it wrote the answer itself."""

    key: str
    target: str | None


class RecentAnswers:
    """Remembers the last `max_answers` by their ids, and which ids are this router's at all."""

    def __init__(self, max_answers: int) -> None:
        self._max_answers = max_answers
        self._answers: OrderedDict[str, RecentAnswer] = OrderedDict()

    def add(self, answer_id: str, answer: RecentAnswer) -> None:
        """The first choice of an answer counts."""
        if answer_id in self._answers:
            return
        self._answers[answer_id] = answer
        if len(self._answers) > self._max_answers:
            self._answers.popitem(last=False)

    def find(self, answer_id: str) -> RecentAnswer | None:
        return self._answers.get(answer_id)

    def __len__(self) -> int:
        return len(self._answers)


# Begins the number of every answer of this process, so that it knows its own ids.
ROUTER_DIGITS = uuid.uuid4().hex[:8]


def new_answer_id(prefix: str) -> str:
    return f"{prefix}-{ROUTER_DIGITS}{uuid.uuid4().hex[:24]}"
