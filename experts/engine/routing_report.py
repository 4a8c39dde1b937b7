"""What a meta's engine reports of its decisions, besides the expert that takes over."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace

MAX_CANDIDATES = 5


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one decision chose from, in one softmax over all words and allowed experts.

    `word` is the log-probability of the likeliest word. `experts` are names and log-probabilities of the
    likeliest allowed experts, at most `MAX_CANDIDATES`, in descending order.
    """

    word: float
    experts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ShadowWin:
    """A shadow expert that would have taken over if it were one of the experts.

    `over` is the expert that took over at this position; None: a word won. `probability` is that of the
    shadow, in a softmax over all words, the allowed experts and itself. `position` is the number of tokens of
    the answer before.
    """

    shadow: str
    over: str | None
    probability: float
    position: int


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """Sent with a chunk that has something to report.

    `candidates` are those of the decision that hands over; in the first chunk those of the first decision, if
    the request asks for them. `shadow_wins` are new; each shadow has at most one in a call.
    """

    candidates: Candidates | None = None
    shadow_wins: tuple[ShadowWin, ...] = ()

    def followed_by(self, later: RoutingReport | None) -> RoutingReport:
        """Both reports as one."""
        if later is None:
            return self
        return RoutingReport(later.candidates or self.candidates, self.shadow_wins + later.shadow_wins)


def report(
    candidates: Candidates | None, wins: deque[ShadowWin], num_steps: int, *, position: int
) -> RoutingReport | None:
    """What there is to report after `num_steps` steps of a call that began at token `position` of its answer.

    Takes their wins from `wins`, whose positions count the steps. A win of a later step stays: the answer may
    have ended before it.
    """
    found = []
    while wins and wins[0].position < num_steps:
        win = wins.popleft()
        found.append(replace(win, position=position + win.position))
    return RoutingReport(candidates, tuple(found)) if found or candidates is not None else None
