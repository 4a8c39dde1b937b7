"""All methods on one query set, beside each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experts.errors import DataError
from experts.evaluate.marks import META, Answers, Marks, scored_indices
from experts.evaluate.methods import SERVED, TOKENS, Examination, Method
from experts.evaluate.rows import judge_queries
from experts.evaluate.sweep import TokenRouter, TriggerPoint
from experts.learn.queries import Query
from experts.learn.route import Judgement, confusion
from experts.learn.states import States
from experts.token import ExpertToken


@dataclass(frozen=True)
class Evaluation:
    """Every method on the same queries, the tokens first.

    `names`: the experts. `experts`, `places`: whose each query is, and where it stands. `confusion`: of the
    tokens; a row for who should take over, a column for who did; `names` in order, then nobody. `scored`:
    indices of the queries that have a right answer. `notes`: what was left out, and why.
    """

    meta_name: str
    meta_fingerprint: str
    dataset_digest: str
    call_bias: float
    names: tuple[str, ...]
    places: tuple[str, ...]
    experts: tuple[str | None, ...]
    scored: tuple[int, ...]
    methods: tuple[Method, ...]
    confusion: tuple[tuple[int, ...], ...]
    sweep: tuple[TriggerPoint, ...]
    notes: tuple[str, ...]

    @property
    def num_queries(self) -> int:
        return len(self.experts)

    @property
    def num_scored(self) -> int:
        return len(self.scored)

    @property
    def has_answers(self) -> bool:
        return self.method(TOKENS).strict is not None

    def method(self, name: str) -> Method:
        """Raises KeyError where it was left out."""
        return {method.name: method for method in self.methods}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values, for json.dumps; what is undefined (nan) is null."""
        values: dict[str, Any] = _plain(asdict(self))
        return values | {"num_queries": self.num_queries, "num_scored": self.num_scored}


def evaluate_methods(
    queries: Sequence[Query],
    states: States,
    tokens: Sequence[ExpertToken],
    *,
    call_bias: float = 0.0,
    only_at_start: bool = False,
    baselines: Mapping[str, Sequence[Judgement]] | None = None,
    answers: Answers | None = None,
    notes: Sequence[str] = (),
) -> Evaluation:
    """Measures the tokens, the methods that need no learning, and `baselines` (by name, as in DESCRIPTIONS).

    `states` are those of `queries`; `tokens` those of every expert, at least one.
    Raises DataError (see `require_known`), TokenMismatch.
    """
    names = tuple(sorted(token.name for token in tokens))
    require_known(queries, names)
    router = TokenRouter(states, tokens, only_at_start=only_at_start)
    own = router.judge(call_bias)
    scored = scored_indices(queries)
    strict, lenient = _marks([queries[index] for index in scored], answers)
    judged: dict[str, Sequence[Judgement]] = {TOKENS: own, **(baselines or {})}
    judged |= _unlearned(queries, names, strict)
    if answers is not None:
        judged[SERVED] = answers.served_judgements
    examination = Examination(queries, scored, len(names), own, strict, lenient)
    return Evaluation(
        meta_name=states.meta_name,
        meta_fingerprint=states.meta_fingerprint,
        dataset_digest=states.dataset_digest,
        call_bias=call_bias,
        names=names,
        places=tuple(query.place for query in queries),
        experts=tuple(query.expert for query in queries),
        scored=tuple(scored),
        methods=tuple(examination.measure_all(judged)),
        confusion=tuple(tuple(row) for row in confusion(own, names)),
        sweep=router.sweep(call_bias),
        notes=tuple(notes),
    )


def require_known(queries: Sequence[Query], names: Sequence[str]) -> None:
    """Raises DataError for a query without a label, and for the label of an expert that is not there."""
    for query in queries:
        if not query.labelled:
            raise DataError(f'{query.place}: no "expert" to judge by; label it, or assign the set first')
        if query.expert is not None and query.expert not in names:
            num_queries = sum(other.expert == query.expert for other in queries)
            raise DataError(
                f"{query.place}: unknown expert '{query.expert}' ({num_queries} queries); "
                f"use one of {', '.join(sorted(names))}"
            )


def _marks(scored: Sequence[Query], answers: Answers | None) -> tuple[Marks | None, Marks | None]:
    """By the strict and by the lenient reading; None where there is nothing to read."""
    if answers is None or not scored:
        return None, None
    return Marks.of(scored, answers, lenient=False), Marks.of(scored, answers, lenient=True)


def _unlearned(
    queries: Sequence[Query], names: Sequence[str], marks: Marks | None
) -> dict[str, list[Judgement]]:
    experts = [query.expert for query in queries]
    if marks:
        best: str | None = marks.best_model()
    else:  # without answers, the one whose queries are the most
        best = max([META, *names], key=lambda name: experts.count(None if name == META else name))
    single = None if best == META else best
    return {
        "meta alone": judge_queries(experts, [None] * len(queries)),
        "best single": judge_queries(experts, [single] * len(queries)),
        "oracle": judge_queries(experts, experts),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    # JSON has no nan, and most readers choke on Python's.
    return None if isinstance(value, float) and math.isnan(value) else value
