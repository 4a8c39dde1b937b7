"""The router's fourth port: where a request stands in a trace, and what is recorded of it.

A trace is identified as W3C's Trace Context says, and spans have the names of OpenTelemetry's conventions.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Protocol

from router.table import Tracing

Attribute = str | bool | int | float | list[str]

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

_TRACEPARENT = re.compile(
    "(?P<version>(?!ff)[0-9a-f]{2})-(?P<trace>(?!0{32})[0-9a-f]{32})-(?P<span>(?!0{16})[0-9a-f]{16})"
    "-(?P<flags>[0-9a-f]{2})(?P<rest>-.*)?"
)
_TRACESTATE = re.compile("[ -~]{1,512}")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span, as other processes are told about it: 32 and 16 hex digits. `state` is for other vendors."""

    trace_id: str
    span_id: str
    is_sampled: bool
    state: str = ""

    @staticmethod
    def new(*, is_sampled: bool) -> TraceContext:
        """The first span of a trace."""
        return TraceContext(f"{random.getrandbits(128) or 1:032x}", new_span_id(), is_sampled)

    @staticmethod
    def read(headers: Mapping[str, str]) -> TraceContext | None:
        """The sender's span; None if the headers name none, or not as the standard says."""
        found = _TRACEPARENT.fullmatch(headers.get(TRACEPARENT, ""))
        if found is None or (found["version"] == "00" and found["rest"]):
            return None
        state = headers.get(TRACESTATE, "")
        is_sampled = bool(int(found["flags"], 16) & 1)
        return TraceContext(
            found["trace"], found["span"], is_sampled, state if _TRACESTATE.fullmatch(state) else ""
        )

    def child(self, span_id: str) -> TraceContext:
        return TraceContext(self.trace_id, span_id, self.is_sampled, self.state)

    def headers(self) -> dict[str, str]:
        parent = {TRACEPARENT: f"00-{self.trace_id}-{self.span_id}-0{int(self.is_sampled)}"}
        return {**parent, TRACESTATE: self.state} if self.state else parent


class SpanKind(Enum):
    SERVER = auto()
    CLIENT = auto()
    INTERNAL = auto()


@dataclass(frozen=True, slots=True)
class TraceSpan:
    """Something that took time. Times are in seconds since 1970; `error` is the code of what failed."""

    name: str
    kind: SpanKind
    context: TraceContext
    parent_id: str | None
    began_s: float
    ended_s: float
    attributes: Mapping[str, Attribute]
    error: str | None = None


@dataclass(slots=True, eq=False)
class RequestTrace:
    """One request in its trace. `context` is the request's own span, and `parent_id` that of its sender.

    If it is not recorded, `context` is the sender's span, which is only passed on.
    """

    context: TraceContext
    parent_id: str | None = None
    is_recorded: bool = False
    includes_text: bool = False
    attributes: dict[str, Attribute] = field(default_factory=dict)
    spans: list[TraceSpan] = field(default_factory=list)  # those below the request's own
    error: str | None = None

    def headers(self, span_id: str) -> dict[str, str]:
        """The headers of a call that the request makes; `span_id` is the span of the call."""
        return (self.context.child(span_id) if self.is_recorded else self.context).headers()

    def span(self, name: str, kind: SpanKind, began_s: float, ended_s: float) -> TraceSpan:
        """The request's own span."""
        return TraceSpan(
            name, kind, self.context, self.parent_id, began_s, ended_s, self.attributes, error=self.error
        )


class Tracer(Protocol):
    """Records the spans of sampled requests."""

    @property
    def settings(self) -> Tracing | None:
        """None: nothing is recorded."""
        ...

    def record(self, spans: Sequence[TraceSpan]) -> None:
        """Returns at once, and never raises."""
        ...


class NoTracer:
    settings: Tracing | None = None

    def record(self, spans: Sequence[TraceSpan]) -> None:
        pass


# The trace of the request that the running task works on.
CURRENT_TRACE: ContextVar[RequestTrace | None] = ContextVar("CURRENT_TRACE", default=None)


def join_trace(headers: Mapping[str, str], settings: Tracing | None) -> RequestTrace | None:
    """The trace of the sender, which decides whether it is recorded; None if the sender has none."""
    parent = TraceContext.read(headers)
    if parent is None:
        return None
    if settings is None or not parent.is_sampled:
        return RequestTrace(parent)
    own = parent.child(new_span_id())
    return RequestTrace(own, parent.span_id, is_recorded=True, includes_text=settings.include_text)


def join_or_begin_trace(
    headers: Mapping[str, str], settings: Tracing | None, draw: Callable[[], float] = random.random
) -> RequestTrace | None:
    """As `join_trace`; but without a sender's trace, a share of `settings.sampling_ratio` is recorded."""
    if TRACEPARENT in headers and (trace := join_trace(headers, settings)):
        return trace
    if settings is None:
        return None
    is_sampled = draw() < settings.sampling_ratio
    context = TraceContext.new(is_sampled=is_sampled)
    return RequestTrace(context, None, is_sampled, settings.include_text)


def new_span_id() -> str:
    return f"{random.getrandbits(64) or 1:016x}"


def unix_offset_s(now_s: float) -> float:
    """What to add to times of a monotonic clock, which shows `now_s`, for seconds since 1970."""
    return time.time() - now_s
