"""Methods of deciding which model answers, and how well each of them does."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from experts.errors import DataError
from experts.evaluate.grading import Grades
from experts.evaluate.intervals import Estimate, difference, estimate
from experts.learn.queries import Query
from experts.learn.routing_judge import Judgement, RouteScores

TOKENS, SERVED, RANDOM, PROMPTED = "tokens", "served", "random", "prompted meta"
NO_EXPERT = "(no expert)"  # not a valid name of an expert

DESCRIPTIONS: Mapping[str, str] = {
    TOKENS: "expert tokens on the meta's states, as decoding decides",
    SERVED: "the cluster itself: its own hand-overs and answers, over HTTP",
    "meta alone": "the meta answers every query",
    "best single": "one model for every query, chosen in hindsight",
    RANDOM: "an expert or no expert, drawn with equal chances; expected values",
    PROMPTED: "the meta is shown the experts, with an example each, and chooses the likeliest name",
    "kNN": "nearest training states by cosine, decided at every word as tokens are",
    "probe": "logistic regression on the training states, decided at every word as tokens are",
    "clusters": "k-means on the state at the query; each cluster belongs to one expert, or to none",
    "oracle": "every query goes where its label says",
}
# They need training queries.
LEARNED = (PROMPTED, "kNN", "probe", "clusters")


def known_methods(names: Iterable[str]) -> frozenset[str]:
    """The names, and the tokens, which all others are compared with. Raises DataError for an unknown name."""
    found = {name.strip() for name in names}
    if unknown := sorted(found - DESCRIPTIONS.keys()):
        raise DataError(f"method '{unknown[0]}' is unknown; use some of {', '.join(DESCRIPTIONS)}")
    return frozenset({TOKENS, *found})


@dataclass(frozen=True)
class Measured:
    """One value per query, 0 to 1; their mean; and its difference to the tokens' mean."""

    values: tuple[float, ...]
    estimate: Estimate
    gain: Estimate

    @classmethod
    def of(cls, values: Sequence[float], reference: Sequence[float]) -> Measured:
        return cls(tuple(values), estimate(values), difference(values, reference))


@dataclass(frozen=True)
class AnswerScores:
    """Over the scored queries. `by_expert`: accuracy by the expert that should answer, or NO_EXPERT."""

    accuracy: Measured
    by_expert: Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """`judgements`: one per query; empty if the figures are expected values.

    `decisions`: whether each query was handed over rightly, or rightly not at all.
    `strict`, `lenient`: scores by the two readings of answers; None if there are no answers.
    """

    name: str
    description: str
    judgements: tuple[Judgement, ...]
    routes: RouteScores
    decisions: Measured
    strict: AnswerScores | None
    lenient: AnswerScores | None


@dataclass(frozen=True)
class Examination:
    """The data by which all methods are measured.

    `reference`: the tokens' judgements. `strict`, `lenient`: None if the models were not asked.
    """

    queries: Sequence[Query]
    scored: Sequence[int]
    num_experts: int
    reference: Sequence[Judgement]
    strict: Grades | None
    lenient: Grades | None

    def measure_all(
        self, judged: Mapping[str, Sequence[Judgement]], methods: Collection[str]
    ) -> list[Method]:
        """Measures those of `judged` (by method) and the random method that are among `methods`, in the order
        of DESCRIPTIONS."""
        measured = [name for name in DESCRIPTIONS if name in methods and name in {RANDOM, *judged}]
        return [
            self._measure_random() if name == RANDOM else self._measure(name, judged[name])
            for name in measured
        ]

    def _measure(self, name: str, judgements: Sequence[Judgement]) -> Method:
        return Method(
            name=name,
            description=DESCRIPTIONS[name],
            judgements=tuple(judgements),
            routes=RouteScores.of(judgements),
            decisions=Measured.of(_decisions(judgements), _decisions(self.reference)),
            strict=self._answers(self.strict, self._values(self.strict, name, judgements)),
            lenient=self._answers(self.lenient, self._values(self.lenient, name, judgements)),
        )

    def _measure_random(self) -> Method:
        # Expected values, because a single random draw would add noise to the figures.
        share = 1 / (self.num_experts + 1)
        decisions = [share] * len(self.queries)
        return Method(
            name=RANDOM,
            description=DESCRIPTIONS[RANDOM],
            judgements=(),
            routes=RouteScores(share, 0.0, 1 - 2 * share, share, 1 - share),
            decisions=Measured.of(decisions, _decisions(self.reference)),
            strict=self._answers(self.strict, self.strict.of_random() if self.strict else ()),
            lenient=self._answers(self.lenient, self.lenient.of_random() if self.lenient else ()),
        )

    def _values(self, grades: Grades | None, name: str, judgements: Sequence[Judgement]) -> tuple[float, ...]:
        if grades is None:
            return ()
        if name == SERVED:
            assert grades.served is not None  # it was asked, as there are judgements of it
            return grades.served
        # A hand-over that is too early costs nothing here: the expert is asked alone.
        return grades.of_routed([judgements[index].routed for index in self.scored])

    def _answers(self, grades: Grades | None, values: Sequence[float]) -> AnswerScores | None:
        if grades is None:
            return None
        reference = self._values(grades, TOKENS, self.reference)
        by_expert: dict[str, list[float]] = {}
        for index, value in zip(self.scored, values, strict=True):
            by_expert.setdefault(self.queries[index].expert or NO_EXPERT, []).append(value)
        shares = {name: sum(own) / len(own) for name, own in sorted(by_expert.items())}
        return AnswerScores(Measured.of(values, reference), shares)


def _decisions(judgements: Sequence[Judgement]) -> list[float]:
    return [float(judgement.is_right) for judgement in judgements]
