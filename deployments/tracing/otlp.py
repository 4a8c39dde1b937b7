"""Sends spans by OTLP over HTTP, from a thread of its own. Needs the extra `otel`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from urllib.parse import urlsplit

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from router.tracing import TraceContext, TraceSpan

REQUEST_TIMEOUT_S = 5.0
SCHEDULE_DELAY_MS = 1000.0
DISTRIBUTION = "expert-token-routing"

# Its messages come at every failure, and ours once.
_LIBRARIES = ("opentelemetry.exporter.otlp", "opentelemetry.sdk")
_SAMPLED = TraceFlags(TraceFlags.SAMPLED)

logger = logging.getLogger(__name__)


class OtlpSender:
    """`endpoint` is a URL, `headers` are sent with each request, and `resource` describes this process."""

    def __init__(self, endpoint: str, headers: Mapping[str, str], resource: Mapping[str, str]) -> None:
        for name in _LIBRARIES:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._ids = _KnownIds()
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            id_generator=self._ids,
        )
        exporter = OTLPSpanExporter(endpoint, headers=dict(headers), timeout=REQUEST_TIMEOUT_S)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _ReportingExporter(exporter, endpoint), schedule_delay_millis=SCHEDULE_DELAY_MS
            )
        )
        self._tracer = self._provider.get_tracer(DISTRIBUTION, version(DISTRIBUTION))

    def send(self, span: TraceSpan) -> None:
        """Put the span into the queue. A full queue loses its oldest spans."""
        self._ids.use(span.context)
        started = self._tracer.start_span(
            span.name,
            _parent(span),
            SpanKind[span.kind.name],
            span.attributes,
            start_time=_ns(span.began_s),
        )
        if span.error is not None:
            started.set_attribute("error.type", span.error)
            started.set_status(Status(StatusCode.ERROR))
        started.end(_ns(span.ended_s))

    def close(self) -> None:
        """Send what is left. Blocks, at most half a minute."""
        self._provider.shutdown()


class _KnownIds(IdGenerator):
    """Gives the next span the ids under which other processes know it already."""

    def use(self, context: TraceContext) -> None:
        self._trace_id, self._span_id = int(context.trace_id, 16), int(context.span_id, 16)

    def generate_trace_id(self) -> int:
        return self._trace_id

    def generate_span_id(self) -> int:
        return self._span_id


class _ReportingExporter(SpanExporter):
    """Logs the first of several failures in a row, and their end."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._place = urlsplit(endpoint).netloc
        self._has_failed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        has_failed = result is not SpanExportResult.SUCCESS
        if has_failed and not self._has_failed:
            logger.warning("spans cannot be sent to %s and are lost; answers are not affected", self._place)
        if self._has_failed and not has_failed:
            logger.info("spans are sent to %s again", self._place)
        self._has_failed = has_failed
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _parent(span: TraceSpan) -> Context:
    if span.parent_id is None:
        return Context()
    context = SpanContext(
        int(span.context.trace_id, 16),
        int(span.parent_id, 16),
        is_remote=True,
        trace_flags=_SAMPLED,
        trace_state=TraceState.from_header([span.context.state]),
    )
    return set_span_in_context(NonRecordingSpan(context), Context())


def _ns(time_s: float) -> int:
    return int(time_s * 1e9)
