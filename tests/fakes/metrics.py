"""Metrics and a decision log that a test can read."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping

from router.decisions.log_lines import Line
from router.decisions.metrics import Metric


class CountedMetrics:
    """Adds up counters, and the values of histograms."""

    def __init__(self) -> None:
        self._series: defaultdict[str, Counter[tuple[str, ...]]] = defaultdict(Counter)

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        assert tags.keys() == {*metric.tag_keys}
        self._series[metric.name][tuple(tags[key] for key in metric.tag_keys)] += value  # type: ignore[assignment]

    def series(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """By the values of the tags, in the order of the metric's tag keys."""
        return dict(self._series[metric.name])


class ListedLog:
    def __init__(self) -> None:
        self.lines: list[Line] = []

    def write(self, make_lines: Callable[[], Iterable[Line]]) -> bool:
        self.lines += make_lines()
        return True
