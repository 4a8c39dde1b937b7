"""Trace contexts, as W3C's standard has them, and which requests are recorded."""

from __future__ import annotations

import timeit

import pytest

from router.table import Tracing
from router.tracing import TraceContext, join_or_begin_trace, join_trace

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
UNSAMPLED = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
SETTINGS = Tracing(endpoint="http://collector:4318/v1/traces", sampling_ratio=0.25)


@pytest.mark.parametrize(
    ("traceparent", "is_sampled"),
    [
        (f"00-{TRACE}-{PARENT}-01", True),
        (f"00-{TRACE}-{PARENT}-00", False),
        (f"00-{TRACE}-{PARENT}-03", True),
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-will-be-like", True),
    ],
)
def test_a_sender_is_read(traceparent: str, is_sampled: bool):
    headers = {"traceparent": traceparent, "tracestate": "rojo=00f067aa0ba902b7"}
    assert TraceContext.read(headers) == TraceContext(TRACE, PARENT, is_sampled, "rojo=00f067aa0ba902b7")


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "nonsense",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}-01-more",
        f"00-{TRACE}-{PARENT}-01\n",
    ],
)
def test_what_is_no_sender_is_ignored(traceparent: str):
    assert TraceContext.read({"traceparent": traceparent}) is None


def test_a_state_that_headers_cannot_hold_is_left_out():
    for state in ("a=\r\nb: c", "a=" + "x" * 600, "a=é"):
        context = TraceContext.read({**SAMPLED, "tracestate": state})
        assert context is not None
        assert context.headers() == SAMPLED


def test_a_context_is_told_as_it_was_read():
    headers = {**SAMPLED, "tracestate": "a=1,b=2"}
    context = TraceContext.read(headers)
    assert context is not None
    assert context.headers() == headers


def test_the_sender_decides_what_is_recorded():
    recorded = join_or_begin_trace(SAMPLED, SETTINGS, draw=lambda: 0.99)
    assert recorded is not None
    assert recorded.is_recorded
    assert (recorded.context.trace_id, recorded.parent_id) == (TRACE, PARENT)
    assert recorded.context.span_id != PARENT
    ignored = join_or_begin_trace(UNSAMPLED, SETTINGS, draw=lambda: 0.0)
    assert ignored is not None
    assert not ignored.is_recorded
    assert ignored.headers("0" * 15 + "1") == UNSAMPLED


def test_without_a_sender_a_share_is_recorded():
    draws = iter(i / 100 for i in range(100))
    traces = [join_or_begin_trace({}, SETTINGS, draw=lambda: next(draws)) for _ in range(100)]
    assert sum(trace is not None and trace.is_recorded for trace in traces) == 25
    assert len({trace.context.trace_id for trace in traces if trace}) == 100
    assert all(trace.context.is_sampled == trace.is_recorded for trace in traces if trace)


def test_a_sender_that_cannot_be_read_counts_as_none():
    trace = join_or_begin_trace({"traceparent": "00-0-0-00"}, SETTINGS, draw=lambda: 0.0)
    assert trace is not None
    assert trace.is_recorded
    assert trace.parent_id is None


def test_without_settings_a_trace_is_only_passed_on():
    assert join_or_begin_trace({}, None) is None
    trace = join_or_begin_trace(SAMPLED, None)
    assert trace is not None
    assert not trace.is_recorded
    assert trace.headers("1" * 16) == SAMPLED


def test_a_replica_begins_no_trace():
    assert join_trace({}, SETTINGS) is None


def test_a_request_that_is_not_recorded_costs_microseconds():
    settings = Tracing(endpoint="http://collector:4318/v1/traces", sampling_ratio=0.0)
    num_calls = 1000
    best_s = min(timeit.repeat(lambda: join_or_begin_trace({}, settings), number=num_calls, repeat=5))
    assert best_s / num_calls < 100e-6
