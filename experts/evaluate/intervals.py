"""Means with 95 % bootstrap intervals, and paired differences of means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap  # type: ignore[import-untyped]

_NUM_RESAMPLES = 4000
_MAX_RESAMPLED = 2**23  # values at once: 64 MiB
_SEED = 0


@dataclass(frozen=True)
class Estimate:
    """A mean over queries, or a difference of two, and where 95 % of its bootstrap values lie."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of at least one value per query."""
    return _estimate(np.asarray(values, dtype=np.float64))


def difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """The mean of `values` less that of `reference`, query by query.

    Both are resampled with the same queries (paired), or the spread of the queries' difficulty, which both
    share, would hide the difference between them.
    """
    # To resample differences is to resample pairs, and a mean of differences is a difference of means.
    return _estimate(np.asarray(values, dtype=np.float64) - np.asarray(reference, dtype=np.float64))


def _estimate(values: NDArray[np.float64]) -> Estimate:
    mean = float(values.mean())
    if np.all(values == values[0]):  # every resample has the same mean
        return Estimate(mean, mean, mean)
    found = bootstrap(
        (values,),
        np.mean,
        n_resamples=_NUM_RESAMPLES,
        batch=max(1, _MAX_RESAMPLED // len(values)),
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    return Estimate(mean, float(found.low), float(found.high))
