"""Answers of models, and which of them are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experts.evaluate.answers import is_right
from experts.learn.queries import Query
from experts.learn.route import Judgement

META = "meta"


@dataclass(frozen=True)
class Answers:
    """Whole answers to the scored queries, in order: of each model `alone` ("meta" and every expert), and
    the generalist's as `served`. `served_judgements`: what it made of all queries, scored or not."""

    alone: Mapping[str, Sequence[str]]
    served: Sequence[str]
    served_judgements: Sequence[Judgement]


@dataclass(frozen=True)
class Marks:
    """1 for each scored query answered right, else 0."""

    alone: Mapping[str, tuple[float, ...]]
    served: tuple[float, ...]

    @classmethod
    def of(cls, queries: Sequence[Query], answers: Answers, *, lenient: bool) -> Marks:
        """`queries` are the scored ones."""

        def mark(texts: Sequence[str]) -> tuple[float, ...]:
            pairs = zip(queries, texts, strict=True)
            return tuple(float(is_right(query, text, lenient)) for query, text in pairs)

        return cls({model: mark(texts) for model, texts in answers.alone.items()}, mark(answers.served))

    def of_routed(self, routed: Sequence[str | None]) -> tuple[float, ...]:
        """When each scored query is answered by the model it is routed to, None being the meta."""
        return tuple(self.alone[who or META][index] for index, who in enumerate(routed))

    def of_random(self) -> tuple[float, ...]:
        return tuple(sum(column) / len(column) for column in zip(*self.alone.values(), strict=True))

    def best_model(self) -> str:
        """The one with the most right answers; of equals the meta, or the first by name."""
        return max(
            sorted(self.alone, key=lambda name: (name != META, name)), key=lambda m: sum(self.alone[m])
        )


def scored_indices(queries: Sequence[Query]) -> list[int]:
    """Which queries have a right answer to judge by."""
    return [index for index, query in enumerate(queries) if query.answer is not None]
