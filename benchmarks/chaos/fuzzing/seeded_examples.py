"""Examples of Hypothesis strategies outside tests, the same for the same seed."""

from __future__ import annotations

from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck, Phase
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, HypothesisProvider
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
BACKEND = "seeded"


class SeededProvider(HypothesisProvider):
    """Draws no constants. Hypothesis takes some from the modules that are imported by then, so what it draws
    would depend on them as well as on the seed."""

    def _maybe_draw_constant(self, *args: Any, **kwargs: Any) -> None:
        return None


AVAILABLE_PROVIDERS[BACKEND] = SeededProvider


def draw_examples(strategy: SearchStrategy[T], num: int, seed: int) -> list[T]:
    """At most `num` examples of the strategy."""
    collected: list[T] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=num,
        database=None,
        phases=[Phase.generate],
        deadline=None,
        backend=BACKEND,
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(strategy)
    def collect(value: T) -> None:
        collected.append(value)

    collect()
    return collected
