"""Where the time of an answer goes, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from router.errors import RouterError
from router.model import Finish, Piece
from router.pace import now_s


@dataclass(slots=True)
class CallTiming:
    """One call of a model, in seconds; the parts add up to the whole.

    `queue_s`: in this router, since the last piece of the call before, or the beginning of the answer: until
    the model was there and let this call in. Then, until the first piece is there, `engine_queue_s` before
    the engine began with the prompt, `prefill_s` until it had a token, and `hop_s` on the way, there and
    back. `decode_s`: waiting for later pieces, but `decision_s` for one that hands over. `relay_s`: handing
    pieces on, as fast as the client takes them. `lost_s`: waiting for what never came, in a call that failed.
    """

    model: str
    queue_s: float = 0.0
    hop_s: float = 0.0
    engine_queue_s: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    decision_s: float = 0.0
    relay_s: float = 0.0
    lost_s: float = 0.0
    _is_first: bool = True
    _last_s: float = field(default_factory=now_s)

    @property
    def until_s(self) -> float:
        """The time up to which all is told."""
        return self._last_s

    def let_in(self) -> None:
        self.queue_s = self._lap_s()

    def received(self, piece: Piece) -> None:
        waited_s = self._lap_s()
        if self._is_first:
            self._is_first = False
            self.engine_queue_s, self.prefill_s = piece.queue_s, piece.prefill_s
            self.hop_s = max(0.0, waited_s - piece.queue_s - piece.prefill_s)
        elif piece.finish is Finish.EXPERT:
            self.decision_s = waited_s
        else:
            self.decode_s += waited_s

    def handed_on(self) -> None:
        self.relay_s += self._lap_s()

    def failed(self) -> None:
        self.lost_s = self._lap_s()

    def phases(self) -> Iterator[tuple[str, float]]:
        """By name, in the order in which they come."""
        yield "queue", self.queue_s
        yield "hop", self.hop_s
        yield "engine_queue", self.engine_queue_s
        yield "prefill", self.prefill_s
        yield "decode", self.decode_s
        yield "decision", self.decision_s
        yield "relay", self.relay_s
        yield "lost", self.lost_s

    def _lap_s(self) -> float:
        since_s, self._last_s = self._last_s, now_s()
        return self._last_s - since_s


@dataclass(slots=True)
class Timing:
    """One answer: its calls in order, when there was text for the client, and when it was `over`."""

    calls: list[CallTiming] = field(default_factory=list)
    first_text_s: float | None = None
    total_s: float = 0.0
    _began_s: float = field(default_factory=now_s)

    @contextmanager
    def call(self, model: str) -> Iterator[CallTiming]:
        """A call of this model, while the block runs."""
        timing = CallTiming(model, _last_s=self.calls[-1].until_s if self.calls else self._began_s)
        self.calls.append(timing)
        try:
            yield timing
        except RouterError:
            timing.failed()
            raise

    def shown(self) -> None:
        if self.first_text_s is None:
            self.first_text_s = now_s() - self._began_s

    def over(self) -> None:
        self.total_s = now_s() - self._began_s


class Meter(Protocol):
    """Keeps account of all answers."""

    def ended(self, timing: Timing) -> None:
        """An answer is over, whatever became of it."""
        ...


class NoMeter:
    def ended(self, timing: Timing) -> None:
        pass
