"""What learning has changed, as plain values: how held-out queries are routed before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from experts.learn.routing_judge import Judgement, RouteScores, confusion


def learning_report(
    names: Sequence[str],
    before: Sequence[Judgement],
    after: Sequence[Judgement],
    *,
    num_held_out: int,
    added: str | None = None,
) -> dict[str, Any]:
    """`before` and `after` judge the same queries. A share is None if there are no queries of the kind.

    Args:
        names: Of all experts.
        num_held_out: How many of the judged queries nothing was learned from.
        added: The new expert, if the others were there already.
    """
    return {
        "names": list(names),
        "added": added,
        "num_queries": len(after),
        "num_held_out": num_held_out,
        "before": _routes(names, before),
        "after": _routes(names, after),
    }


def _routes(names: Sequence[str], judgements: Sequence[Judgement]) -> dict[str, Any]:
    """`confusion` is as in an `Evaluation`."""
    return {
        "accuracy": {name: _plain(RouteScores.of(judgements, name).accuracy) for name in names},
        "false_trigger_rate": _plain(RouteScores.of(judgements).false_trigger_rate),
        "confusion": confusion(judgements, names),
    }


def _plain(share: float) -> float | None:
    return None if math.isnan(share) else share
