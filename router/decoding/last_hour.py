"""What the answers of the last hour did, kept in memory: how many ended, who took over, where time went."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import pairwise

from router.clock import now_s
from router.decoding.timing import Timing
from router.table import META

MINUTE_S = 60.0
NUM_MINUTES = 60


@dataclass(slots=True)
class HourSummary:
    """`handovers` by expert; `phases_s` by phase, over all calls, in seconds."""

    num_answers: int = 0
    handovers: dict[str, int] = field(default_factory=dict)
    phases_s: dict[str, float] = field(default_factory=dict)

    def add(self, other: HourSummary) -> None:
        self.num_answers += other.num_answers
        for expert, number in other.handovers.items():
            self.handovers[expert] = self.handovers.get(expert, 0) + number
        for phase, time_s in other.phases_s.items():
            self.phases_s[phase] = self.phases_s.get(phase, 0.0) + time_s


class LastHour:
    """A sum for each minute, so memory grows with the number of models and not with that of answers."""

    def __init__(self) -> None:
        self._minutes: deque[tuple[int, HourSummary]] = deque(maxlen=NUM_MINUTES)

    def add(self, timing: Timing) -> None:
        """An answer has ended."""
        self._this_minute().add(_summary_of(timing))

    def summary(self, experts: Collection[str]) -> HourSummary:
        """The sum, with the hand-overs to these experts only."""
        total, first = HourSummary(), _minute() - NUM_MINUTES + 1
        for minute, summary in self._minutes:
            if minute >= first:
                total.add(summary)
        total.handovers = {name: total.handovers.get(name, 0) for name in experts}
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
    summary = HourSummary(1, Counter(taken_over))
    for call in timing.calls:
        summary.add(HourSummary(phases_s=dict(call.phases())))
    return summary
