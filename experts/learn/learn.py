"""Learns expert tokens from the states of a query set, and judges them on held-out queries."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from experts.errors import DataError
from experts.learn.calibrate import Calibration, calibrate
from experts.learn.fit import DEFAULT_L2, fit_tokens
from experts.learn.hidden_states import Progress, States
from experts.learn.queries import Query
from experts.learn.routing_judge import (
    Judgement,
    MidAnswerCounts,
    RouteScores,
    count_mid_answer,
    judge,
    judge_rows,
    route,
)
from experts.learn.split import split_queries
from experts.token import ExpertToken

DEFAULT_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class FitReport:
    """`tokens`: the new ones, with their scores. `names`: of all experts, incumbents included.

    `before` and `after` judge the held-out queries without and with the new tokens; if none was held out
    (`num_held_out` is 0), all queries. `judged`: their indices. `mid_answer` counts on the same queries, with
    the new tokens.
    """

    tokens: list[ExpertToken]
    call_bias: float
    names: tuple[str, ...]
    judged: list[int]
    before: list[Judgement]
    after: list[Judgement]
    mid_answer: MidAnswerCounts
    num_train: int
    num_held_out: int


def learn_tokens(
    states: States,
    queries: Sequence[Query],
    *,
    incumbents: Sequence[ExpertToken] = (),
    l2: float = DEFAULT_L2,
    held_out_share: float = DEFAULT_HELD_OUT_SHARE,
    false_trigger_rate: float | None = None,
    device: str = "cpu",
    progress: Progress = lambda done, total, what: None,
) -> FitReport:
    """Learns a token for every expert that `queries` name and that is not among the `incumbents`.

    `states` are those of all `queries`. With a `false_trigger_rate`, the new tokens' biases and one call
    bias for all are chosen on the held-out queries. `device`: where the fit computes.
    Raises DataError, TokenMismatch.
    """
    train, held_out = split_queries(queries, held_out_share)
    fitted = fit_tokens(
        states.of_queries(train), l2=l2, incumbents=incumbents, device=device, progress=progress
    )
    judged = held_out or train
    calibration = _calibrated(states.of_queries(judged), fitted.tokens, false_trigger_rate, incumbents)
    return _report(states, train, held_out, calibration, incumbents)


def require_labels(queries: Sequence[Query], expert_names: Iterable[str]) -> None:
    """Raises DataError unless the queries name exactly these experts, each at least once."""
    names = sorted(expert_names)
    labels = {query.expert for query in queries if query.expert is not None}
    if unknown := sorted(labels - set(names)):
        places = [query.place for query in queries if query.expert == unknown[0]]
        raise DataError(
            f"{places[0]}: unknown expert '{unknown[0]}' ({len(places)} queries); "
            f"use one of {', '.join(names)}"
        )
    if missing := sorted(set(names) - labels):
        raise DataError(f'no query names expert \'{missing[0]}\'; add queries with "expert": "{missing[0]}"')


def _report(
    states: States,
    train: list[int],
    held_out: list[int],
    calibration: Calibration,
    incumbents: Sequence[ExpertToken],
) -> FitReport:
    tokens = [*incumbents, *calibration.tokens]
    judged = states.of_queries(held_out or train)
    routed = route(judged, tokens, calibration.call_bias)
    after = judge_rows(judged, routed, [token.name for token in tokens])
    return FitReport(
        tokens=_with_scores(calibration.tokens, after, "held_out" if held_out else "train"),
        call_bias=calibration.call_bias,
        names=tuple(sorted(token.name for token in tokens)),
        judged=held_out or train,
        before=judge(judged, incumbents),
        after=after,
        mid_answer=count_mid_answer(judged, routed),
        num_train=len(train),
        num_held_out=len(held_out),
    )


def _calibrated(
    judged: States,
    tokens: list[ExpertToken],
    false_trigger_rate: float | None,
    incumbents: Sequence[ExpertToken],
) -> Calibration:
    if false_trigger_rate is None:
        return Calibration(tokens, call_bias=0.0)
    return calibrate(judged, tokens, false_trigger_rate, incumbents)


def _with_scores(
    tokens: Sequence[ExpertToken], judgements: Sequence[Judgement], prefix: str
) -> list[ExpertToken]:
    return [replace(token, scores=_scores(judgements, token.name, prefix)) for token in tokens]


def _scores(judgements: Sequence[Judgement], name: str, prefix: str) -> dict[str, float]:
    scores = asdict(RouteScores.of(judgements, name))
    return {f"{prefix}_{score}": value for score, value in scores.items() if not math.isnan(value)}
