"""Where the time of an answer goes, call by call."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from router.clock import now_s
from router.errors import RouterError
from router.model_port import ModelChunk
from router.tracing import new_span_id


@dataclass(slots=True)
class CallTiming:
    """The phases of one call of a model, in seconds; together they are the whole call.

    `queue_s`: in the router, from the end of the previous call until this one has a slot.
    Then, up to the first chunk: `engine_queue_s` in the engine's queue, `prefill_s` until the first token,
    and `hop_s` for the rest, which is the round trip to the replica.
    `decode_s`: waiting for the later chunks; `decision_s` instead for the chunk that hands over.
    `relay_s`: passing chunks on, which takes as long as the client needs to read them.
    `lost_s`: waiting for the chunk that did not come, in a call that failed.

    The part of an expert that took over in place is a call of its own here, whose `prefill_s` is the time to
    its first token; it has no queue and no hop.

    `last` is the chunk that came last, and `error` the code of what the call failed with. `span_id` is the
    call's in a trace. `began_s` and `ended_s` are on the clock of `now_s`.
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
    is_in_place: bool = False
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    last: ModelChunk | None = None
    error: str | None = None
    span_id: str = field(default_factory=new_span_id)
    began_s: float = field(default_factory=now_s)
    ended_s: float = 0.0
    _last_s: float = 0.0

    def __post_init__(self) -> None:
        self._last_s = self.began_s

    @property
    def counted_until_s(self) -> float:
        """The time up to which everything is in one of the phases."""
        return self._last_s

    def admitted(self) -> None:
        """The call has its slot."""
        self.queue_s = self._lap_s()

    def received(self, chunk: ModelChunk) -> None:
        waited_s, is_first = self._lap_s(), self.last is None
        self.last = chunk
        self.num_tokens += chunk.num_tokens
        if chunk.num_prompt_tokens:
            self.num_prompt_tokens = chunk.num_prompt_tokens
        if is_first and self.is_in_place:
            self.prefill_s = waited_s
        elif is_first:
            self.engine_queue_s, self.prefill_s = chunk.queue_s, chunk.prefill_s
            self.hop_s = max(0.0, waited_s - chunk.queue_s - chunk.prefill_s)
        elif chunk.expert is not None:
            self.decision_s = waited_s
        else:
            self.decode_s += waited_s

    def relayed(self) -> None:
        """The client has taken the chunk."""
        self.relay_s += self._lap_s()

    def failed(self, error: RouterError) -> None:
        self.lost_s, self.error = self._lap_s(), error.code or error.type

    def phases(self) -> Iterator[tuple[str, float]]:
        """The name and the seconds of each phase, in the order in which they come."""
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
    """One answer: its calls in order, the time to the first text that the client sees, and the total time."""

    calls: list[CallTiming] = field(default_factory=list)
    first_text_s: float | None = None
    total_s: float = 0.0
    _began_s: float = field(default_factory=now_s)

    @contextmanager
    def call(self, model: str) -> Iterator[CallTiming]:
        """Time a call of this model while the block runs."""
        try:
            yield self._begin(model)
        except RouterError as error:
            self.calls[-1].failed(error)
            raise
        finally:
            self.calls[-1].ended_s = now_s()

    def taken_over(self, model: str) -> CallTiming:
        """This model writes on within the present call."""
        self.calls[-1].ended_s = now_s()
        timing = self._begin(model)
        timing.is_in_place = True
        return timing

    def text_shown(self) -> None:
        if self.first_text_s is None:
            self.first_text_s = now_s() - self._began_s

    def ended(self) -> None:
        self.total_s = now_s() - self._began_s

    def _begin(self, model: str) -> CallTiming:
        since_s = self.calls[-1].counted_until_s if self.calls else self._began_s
        self.calls.append(CallTiming(model, began_s=since_s))
        return self.calls[-1]


class Meter(Protocol):
    """Collects the timing of all answers."""

    def ended(self, timing: Timing) -> None:
        """An answer has ended: complete, failed, or left by its client."""
        ...


class NoMeter:
    def ended(self, timing: Timing) -> None:
        pass
