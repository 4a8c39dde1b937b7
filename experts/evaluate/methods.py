"""Ways of deciding who answers, and what each of them made of every query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experts.evaluate.intervals import Estimate, difference, estimate
from experts.evaluate.marks import Marks
from experts.learn.queries import Query
from experts.learn.route import Judgement, RouteScores

TOKENS, SERVED, RANDOM = "tokens", "served", "random"
NOBODY = "(nobody)"  # no expert can have this name

DESCRIPTIONS: Mapping[str, str] = {
    TOKENS: "expert tokens on the meta's states, as decoding decides",
    SERVED: "the cluster itself: its own hand-overs and answers, over HTTP",
    "meta alone": "nobody takes over",
    "best single": "one model for every query, chosen in hindsight",
    RANDOM: "experts and nobody drawn alike; expected values",
    "prompted meta": "the meta is shown the experts, with an example each, and names the likeliest",
    "kNN": "nearest training states by cosine, decided at every word as tokens are",
    "probe": "logistic regression on the training states, decided at every word as tokens are",
    "clusters": "k-means on the state at the query; every cluster has one expert, or nobody",
    "oracle": "every query goes where its label says",
}


@dataclass(frozen=True)
class Measured:
    """One value per query, 0 to 1; their mean; and how much it is above that of the tokens."""

    values: tuple[float, ...]
    estimate: Estimate
    gain: Estimate

    @classmethod
    def of(cls, values: Sequence[float], reference: Sequence[float]) -> Measured:
        return cls(tuple(values), estimate(values), difference(values, reference))


@dataclass(frozen=True)
class AnswerScores:
    """Over the scored queries. `by_expert`: accuracy by who should answer, NOBODY included."""

    accuracy: Measured
    by_expert: Mapping[str, float]


@dataclass(frozen=True)
class Method:
    """`judgements`: one per query; none where the figures are expected values.

    `decisions`: whether each query was handed over rightly, or rightly to nobody.
    `strict`, `lenient`: by the two readings of answers; None where there are none.
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
    """What all methods are measured by. `strict` and `lenient` are None where nobody was asked."""

    queries: Sequence[Query]
    scored: Sequence[int]
    num_experts: int
    reference: Sequence[Judgement]
    strict: Marks | None
    lenient: Marks | None

    def measure_all(self, judged: Mapping[str, Sequence[Judgement]]) -> list[Method]:
        """And the random one, in the order of DESCRIPTIONS."""
        methods = {name: self._measure(name, judgements) for name, judgements in judged.items()}
        methods[RANDOM] = self._measure_random()
        return [methods[name] for name in DESCRIPTIONS if name in methods]

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
        # Not drawn but summed over all outcomes: one draw would be one more accident in the figures.
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

    def _values(self, marks: Marks | None, name: str, judgements: Sequence[Judgement]) -> tuple[float, ...]:
        if marks is None:
            return ()
        if name == SERVED:
            return marks.served
        # Of a hand-over that is too early this sees nothing: the expert alone does not miss a greeting.
        return marks.of_routed([judgements[index].routed for index in self.scored])

    def _answers(self, marks: Marks | None, values: Sequence[float]) -> AnswerScores | None:
        if marks is None:
            return None
        reference = self._values(marks, TOKENS, self.reference)
        by_expert: dict[str, list[float]] = {}
        for index, value in zip(self.scored, values, strict=True):
            by_expert.setdefault(self.queries[index].expert or NOBODY, []).append(value)
        shares = {name: sum(own) / len(own) for name, own in sorted(by_expert.items())}
        return AnswerScores(Measured.of(values, reference), shares)


def _decisions(judgements: Sequence[Judgement]) -> list[float]:
    return [float(one.outcome == ("none" if one.expert is None else "right")) for one in judgements]
