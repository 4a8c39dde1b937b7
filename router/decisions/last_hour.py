"""What the answers of the last hour did, kept in memory: how many ended, who took over, where time went."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from router.clock import now_s
from router.decisions.metrics import SHADOW_DECISIONS, SHADOW_WINS, Metric
from router.decoding.timing import Timing
from router.table import META, RouteTable

MINUTE_S = 60.0
NUM_MINUTES = 60


@dataclass(slots=True)
class HourSummary:
    """`handovers` by expert; `phases_s` by phase, over all calls, in seconds.

    By shadow expert, `shadow_answers` counts the answers in which it was scored, and `shadow_wins` those in
    which it would have taken over.
    """

    num_answers: int = 0
    handovers: Counter[str] = field(default_factory=Counter)
    phases_s: Counter[str] = field(default_factory=Counter)
    shadow_answers: Counter[str] = field(default_factory=Counter)
    shadow_wins: Counter[str] = field(default_factory=Counter)

    def add(self, other: HourSummary) -> None:
        self.num_answers += other.num_answers
        self.handovers.update(other.handovers)
        self.phases_s.update(other.phases_s)
        self.shadow_answers.update(other.shadow_answers)
        self.shadow_wins.update(other.shadow_wins)

    def to_json(self, table: RouteTable) -> dict[str, Any]:
        """Plain values, of the table's own experts only."""
        shadows = {
            name: {"num_answers": self.shadow_answers[name], "num_wins": self.shadow_wins[name]}
            for name in table.shadows
        }
        handovers = {name: self.handovers[name] for name in table.experts}
        phases_s = dict(self.phases_s)
        return {
            "num_answers": self.num_answers,
            "handovers": handovers,
            "phases_s": phases_s,
            "shadows": shadows,
        }


class LastHour:
    """A sum for each minute, so memory grows with the number of models and not with that of answers."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, HourSummary]] = deque(maxlen=NUM_MINUTES)

    def add(self, timing: Timing) -> None:
        """An answer has ended."""
        self._this_minute().add(_summary_of(timing))

    def count(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        """As `Metrics.add`; of all metrics, only those of shadow experts count here."""
        if metric is SHADOW_DECISIONS:
            self._this_minute().shadow_answers[tags["shadow"]] += int(value)
        elif metric is SHADOW_WINS:
            self._this_minute().shadow_wins[tags["shadow"]] += int(value)

    def summary(self) -> HourSummary:
        total, first = HourSummary(), _minute() - NUM_MINUTES + 1
        for minute, summary in self._minutes:
            if minute >= first:
                total.add(summary)
        return total

    def _this_minute(self) -> HourSummary:
        now = _minute()
        if not self._minutes or self._minutes[-1][0] != now:
            self._minutes.append((now, HourSummary()))
        return self._minutes[-1][1]


def _minute() -> int:
    return int(now_s() // MINUTE_S)


def _summary_of(timing: Timing) -> HourSummary:
    models = [call.model for call in timing.calls]
    # A call of an expert behind one of another model; the same model again is a call that was repeated.
    taken_over = [after for before, after in pairwise(models) if after not in (before, META)]
    phases: Counter[str] = Counter()
    for call in timing.calls:
        phases.update(dict(call.phases()))
    return HourSummary(1, Counter(taken_over), phases)
