"""From the states of a query set to expert tokens, judged on queries that were kept back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace

from experts.errors import DataError
from experts.learn.calibrate import calibrate
from experts.learn.fit import DEFAULT_L2, fit_tokens
from experts.learn.queries import Query
from experts.learn.route import Judgement, RouteScores, judge
from experts.learn.split import split_queries
from experts.learn.states import Progress, States
from experts.token import ExpertToken

DEFAULT_HELD_OUT_SHARE = 0.2


@dataclass(frozen=True)
class Lesson:
    """`tokens`: the new ones, their scores those on the held-out queries. `names`: incumbents' too.

    `before` and `after` judge the held-out queries without and with the new tokens; where none was held
    out (`num_held_out` 0), those that were learned from.
    """

    tokens: list[ExpertToken]
    call_bias: float
    names: tuple[str, ...]
    before: list[Judgement]
    after: list[Judgement]
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
) -> Lesson:
    """Learns a token for every expert that `queries` name and `incumbents` do not hold, by name.

    `states` are those of all `queries`. With a `false_trigger_rate` the new tokens' biases, and a call bias
    for all, are chosen on the held-out queries. `device` is where the fit computes.
    Raises DataError, TokenMismatch.
    """
    train, held_out = split_queries(queries, held_out_share)
    fitted = fit_tokens(
        states.of_queries(train), l2=l2, incumbents=incumbents, device=device, progress=progress
    )
    tokens, call_bias = fitted.tokens, 0.0
    judged = states.of_queries(held_out) if held_out else states
    if false_trigger_rate is not None:
        calibration = calibrate(judged, tokens, false_trigger_rate, incumbents)
        tokens, call_bias = calibration.tokens, calibration.call_bias
    everyone = [*incumbents, *tokens]
    after = judge(judged, everyone, call_bias)
    prefix = "held_out" if held_out else "train"
    return Lesson(
        tokens=[replace(token, scores=_scores(after, token.name, prefix)) for token in tokens],
        call_bias=call_bias,
        names=tuple(sorted(token.name for token in everyone)),
        before=judge(judged, incumbents),
        after=after,
        num_train=len(train),
        num_held_out=len(held_out),
    )


def require_labels(queries: Sequence[Query], expert_names: Iterable[str]) -> None:
    """Raises DataError unless the queries name these experts, every one of them, and no others."""
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


def _scores(judgements: Sequence[Judgement], name: str, prefix: str) -> dict[str, float]:
    scores = asdict(RouteScores.of(judgements, name))
    return {f"{prefix}_{score}": value for score, value in scores.items() if not math.isnan(value)}
