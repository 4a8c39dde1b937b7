"""The decisions of one answer: what the meta chose from, what it chose, and what became of that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from router.decoding.policy import Selection
from router.errors import ModelUnavailable
from router.model_port import Finish, ModelChunk
from router.routing_report import Candidates, RoutingReport, ShadowWin


@dataclass(slots=True)
class Decision:
    """One call of the meta that might hand over at token `position` of the answer or later.

    `masked` are the experts that it could not choose, each with the reason. `winner` is the expert that took
    over, None if the meta went on to its end. `redecided` says why the winner did not answer.
    """

    position: int
    allowed: tuple[str, ...]
    masked: Mapping[str, str]
    candidates: Candidates | None = None
    winner: str | None = None
    probability: float | None = None
    redecided: str | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the meta says of a conversation. `masked` are the experts that it could not choose, each with the
    reason."""

    chunk: ModelChunk
    masked: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class DecisionTrail:
    """The decisions of one answer in order, and the shadow experts that were scored beside them.

    A shadow wins at most once in an answer: had it been an expert, the answer would be its from there on.
    """

    decisions: list[Decision] = field(default_factory=list)
    shadows: tuple[str, ...] = ()
    shadow_wins: dict[str, ShadowWin] = field(default_factory=dict)
    _is_open: bool = False

    def begin(self, position: int, selection: Selection, shadows: tuple[str, ...]) -> None:
        """The meta is called. If its last call failed, this one takes the place of that one's decision."""
        if self._is_open:
            self.decisions.pop()
        self.decisions.append(Decision(position, selection.allowed, selection.masked))
        self.shadows = self.shadows or shadows
        self._is_open = True

    @property
    def masked(self) -> Mapping[str, str]:
        """The experts that the last decision could not choose."""
        return self.decisions[-1].masked if self.decisions else {}

    def prefilled(self, num_prompt_tokens: int, windows: Mapping[str, int]) -> None:
        """The meta knows the length of its prompt now, and leaves out experts whose window is too small."""
        if not self._is_open or not windows:
            return
        decision = self.decisions[-1]
        too_small = [
            name for name in decision.allowed if windows.get(name, num_prompt_tokens + 1) <= num_prompt_tokens
        ]
        decision.allowed = tuple(name for name in decision.allowed if name not in too_small)
        decision.masked = {**decision.masked, **dict.fromkeys(too_small, "window")}

    def reported(self, report: RoutingReport) -> None:
        for win in report.shadow_wins:
            self.shadow_wins.setdefault(win.shadow, win)
        if report.candidates is not None and self._is_open:
            self.decisions[-1].candidates = report.candidates

    def handed_over(self, expert: str, probability: float | None) -> None:
        decision, self._is_open = self.decisions[-1], False
        decision.winner, decision.probability = expert, probability

    def redecided(self, reason: str) -> None:
        """The expert that won does not answer, or no longer."""
        if self.decisions:  # an expert that gets the result of its tool call was not chosen
            self.decisions[-1].redecided = reason


def likeliest_expert(chunk: ModelChunk) -> ModelChunk:
    """The answer to a probe, with the likeliest expert as the choice, whatever the words are.

    Raises ModelUnavailable: there is none.
    """
    found = chunk.distribution
    if not found:
        raise ModelUnavailable(
            "no expert that can read the pictures or files of this conversation is available; try again, or "
            "see `etr status`"
        )
    expert = max(found, key=found.__getitem__)
    return replace(chunk, finish=Finish.EXPERT, expert=expert, probability=found[expert])
