"""The models' answers, and which of them are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experts.evaluate.answers import is_right
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement

META = "meta"


@dataclass(frozen=True)
class Answers:
    """Whole answers to the scored queries, in order.

    `alone`: of every model asked alone, by name ("meta" and every expert). `served`: of the whole cluster.
    `served_judgements`: the cluster's hand-overs on all queries, scored or not. Both are None if it was not
    asked.
    """

    alone: Mapping[str, Sequence[str]]
    served: Sequence[str] | None
    served_judgements: Sequence[Judgement] | None


@dataclass(frozen=True)
class Grades:
    """Per scored query 1 if it was answered right, else 0. See `Answers`."""

    alone: Mapping[str, tuple[float, ...]]
    served: tuple[float, ...] | None

    @classmethod
    def of(cls, queries: Sequence[Query], answers: Answers, *, lenient: bool) -> Grades:
        """`queries` are the scored ones."""

        def grade(texts: Sequence[str]) -> tuple[float, ...]:
            pairs = zip(queries, texts, strict=True)
            return tuple(float(is_right(query, text, lenient)) for query, text in pairs)

        alone = {model: grade(texts) for model, texts in answers.alone.items()}
        return cls(alone, None if answers.served is None else grade(answers.served))

    def of_routed(self, routed: Sequence[str | None]) -> tuple[float, ...]:
        """Grades if each scored query is answered by the model that it is routed to; None is the meta."""
        return tuple(self.alone[model or META][index] for index, model in enumerate(routed))

    def of_random(self) -> tuple[float, ...]:
        """Expected grades if a model is drawn at random for each query."""
        return tuple(sum(column) / len(column) for column in zip(*self.alone.values(), strict=True))

    def best_model(self) -> str:
        """The model with the most right answers; ties go to the meta, then to the first name."""
        names = sorted(self.alone, key=lambda name: (name != META, name))
        return max(names, key=lambda name: sum(self.alone[name]))


def scored_indices(queries: Sequence[Query]) -> list[int]:
    """Indices of the queries that have a right answer to judge by."""
    return [index for index, query in enumerate(queries) if query.answer is not None]
