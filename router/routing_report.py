"""What the meta reports of its decisions, besides the expert that takes over."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidates:
    """What one decision chose from, in one softmax over all words and allowed experts.

    `word` is the log-probability of the likeliest word. `experts` are names and log-probabilities of the few
    likeliest experts, in descending order.
    """

    word: float
    experts: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class ShadowWin:
    """A shadow expert that would have taken over at token `position` of the answer.

    `over` is the expert that did take over there; None: a word won. `probability` is that of the shadow.
    """

    shadow: str
    over: str | None
    probability: float
    position: int


@dataclass(frozen=True, slots=True)
class RoutingReport:
    """`candidates` are those of the hand-over; in the first chunk those of the first decision, if the request
    asks for them. `shadow_wins` are new; each shadow has at most one in a call."""

    candidates: Candidates | None = None
    shadow_wins: tuple[ShadowWin, ...] = ()
