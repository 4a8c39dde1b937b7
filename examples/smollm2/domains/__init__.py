"""The domains, one per expert: each asks questions whose answers a program can check."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from examples.smollm2.domains import dates, empathy, logs, roman, sql, units
from examples.smollm2.phrasing import Phrasings
from examples.smollm2.question import Part, Question


class Domain(Protocol):
    """What every module of a domain offers."""

    @property
    def PHRASINGS(self) -> Phrasings: ...  # noqa: N802 - a constant of the module

    def sample(self, rng: random.Random, part: Part) -> Question:
        """A random question of the part."""
        ...

    def is_right(self, question: Question, text: str) -> bool:
        """Whether the text answers the question."""
        ...


DOMAINS: Mapping[str, Domain] = {
    "logs": logs,
    "sql": sql,
    "empathy": empathy,
    "roman": roman,
    "units": units,
    "dates": dates,
}
