"""Compares all methods on one query set."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from experts.errors import DataError
from experts.evaluate.false_handovers import GeneralKind, general_kinds
from experts.evaluate.grading import META, Answers, Grades, scored_indices
from experts.evaluate.methods import DESCRIPTIONS, SERVED, TOKENS, Examination, Method
from experts.evaluate.state_rows import judge_queries
from experts.evaluate.threshold_sweep import TokenRouter, TriggerPoint
from experts.learn.hidden_states import States
from experts.learn.queries import QUERY_SET, Query, broken_rows, label_problem
from experts.learn.routing_judge import Judgement, confusion
from experts.token import ExpertToken


@dataclass(frozen=True)
class Evaluation:
    """Every method on the same queries, the tokens first.

    `names`: of the experts. `experts`, `places`: per query, the expert that should answer and its place in
    the file. `kinds`: of the general queries; None for the others. `scored`: indices of the queries with a
    right answer. `confusion`: of the tokens, counts with a
    row per expert that should take over and a column per expert that did, in the order of `names`, then no
    expert. `notes`: what was left out, and why.
    """

    meta_name: str
    meta_fingerprint: str
    dataset_digest: str
    call_bias: float
    names: tuple[str, ...]
    places: tuple[str, ...]
    experts: tuple[str | None, ...]
    kinds: tuple[GeneralKind | None, ...]
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
        """Raises KeyError if the method was left out."""
        return {method.name: method for method in self.methods}[name]

    def to_json(self) -> dict[str, Any]:
        """Plain values for json.dumps; undefined values (nan) become None."""
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
    methods: Collection[str] = DESCRIPTIONS.keys(),
    notes: Sequence[str] = (),
) -> Evaluation:
    """Measures `tokens` (of all experts), the `methods` that need no learning, and `baselines`, by name.

    `states`: of `queries`. Names: as in DESCRIPTIONS. Raises DataError (see `require_known`), TokenMismatch.
    """
    require_known(queries, names := tuple(sorted(token.name for token in tokens)))
    router = TokenRouter(states, tokens, only_at_start=only_at_start)
    scored = tuple(scored_indices(queries))
    judged = {TOKENS: router.judge(call_bias), **(baselines or {})}
    return Evaluation(
        meta_name=states.meta_name,
        meta_fingerprint=states.meta_fingerprint,
        dataset_digest=states.dataset_digest,
        call_bias=call_bias,
        names=names,
        places=tuple(query.place for query in queries),
        experts=tuple(query.expert for query in queries),
        kinds=tuple(general_kinds(queries, states)),
        scored=scored,
        methods=_measured(queries, scored, names, judged, answers, {TOKENS, *methods}),
        confusion=tuple(tuple(row) for row in confusion(judged[TOKENS], names)),
        sweep=router.sweep(call_bias),
        notes=tuple(notes),
    )


def require_known(queries: Sequence[Query], names: Sequence[str]) -> None:
    """Raises DataError with the queries that have no label, or the name of an unknown expert."""
    found = [(query.place, label_problem(query, names)) for query in queries]
    problems = [f"{place}: {problem}" for place, problem in found if problem]
    if problems:
        raise DataError(broken_rows(QUERY_SET, problems, len(queries)))


def _measured(
    queries: Sequence[Query],
    scored: Sequence[int],
    names: Sequence[str],
    judged: Mapping[str, Sequence[Judgement]],
    answers: Answers | None,
    methods: Collection[str],
) -> tuple[Method, ...]:
    strict, lenient = _grades([queries[index] for index in scored], answers)
    judged = {**judged, **_unlearned(queries, names, strict)}
    if answers is not None and answers.served_judgements is not None:
        judged[SERVED] = answers.served_judgements
    examination = Examination(queries, scored, len(names), judged[TOKENS], strict, lenient)
    return tuple(examination.measure_all(judged, methods))


def _grades(scored: Sequence[Query], answers: Answers | None) -> tuple[Grades | None, Grades | None]:
    """Strict and lenient grades; None if there are no answers to judge."""
    if answers is None or not scored:
        return None, None
    return Grades.of(scored, answers, lenient=False), Grades.of(scored, answers, lenient=True)


def _unlearned(
    queries: Sequence[Query], names: Sequence[str], grades: Grades | None
) -> dict[str, list[Judgement]]:
    experts = [query.expert for query in queries]
    if grades:
        best: str | None = grades.best_model()
    else:  # without answers, the model with the most queries
        best = max([META, *names], key=lambda name: experts.count(None if name == META else name))
    single = None if best == META else best
    return {
        "meta alone": judge_queries(experts, [None] * len(queries)),
        "best single": judge_queries(experts, [single] * len(queries)),
        "oracle": judge_queries(experts, experts),
    }


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    # JSON has no nan, and most parsers reject the one that Python writes.
    return None if isinstance(value, float) and math.isnan(value) else value
