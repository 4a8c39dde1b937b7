"""Means and paired differences of means, with 95 % bootstrap intervals."""

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
    """A mean over queries, or a difference of two means, and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of `values`, one per query, at least one."""
    return _estimate(np.asarray(values, dtype=np.float64))


def difference(values: Sequence[float], reference: Sequence[float]) -> Estimate:
    """The mean of `values` minus that of `reference`.

    Both are resampled with the same queries (paired); else the spread in the queries' difficulty, which both
    share, would hide the difference.
    """
    # Resampling differences resamples pairs, and the mean of differences is the difference of means.
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
