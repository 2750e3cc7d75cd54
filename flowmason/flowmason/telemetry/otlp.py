"""Spans as OpenTelemetry has them, sent by OTLP over HTTP. Imported only where an operator wants traces.

Where to, with which headers and how compressed is told by OpenTelemetry's own variables (`OTEL_EXPORTER_OTLP_*`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from flowmason.telemetry.spans import Span

_TOGETHER = 512
_MS = 1_000_000
_KINDS = {"internal": SpanKind.INTERNAL, "client": SpanKind.CLIENT, "server": SpanKind.SERVER}
_SCOPE = InstrumentationScope("flowmason")
log = logging.getLogger("flowmason.telemetry")


def send(spans: Sequence[Span], trace_id: int) -> bool:
    """Send spans of one trace now; False where they were not taken. Blocks."""
    exporter = _exporter()
    for start in range(0, len(spans), _TOGETHER):
        part = [_readable(span, trace_id) for span in spans[start : start + _TOGETHER]]
        if exporter.export(part) is not SpanExportResult.SUCCESS:
            return False
    return True


class Sender:
    """Sends spans in the background, many at once."""

    def __init__(self) -> None:
        self._processor = BatchSpanProcessor(OTLPSpanExporter())

    def add(self, span: Span, trace_id: int) -> None:
        """Have a span sent soon; beyond a bound, spans are dropped."""
        self._processor.on_end(_readable(span, trace_id))

    def close(self) -> None:
        """Send what is left. Blocks."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


@cache
def _exporter() -> OTLPSpanExporter:
    return OTLPSpanExporter()


@cache
def _resource() -> Resource:
    found = Resource.create()
    named = str(found.attributes.get("service.name", ""))
    return Resource.create({"service.name": "flowmason"}) if named.startswith("unknown_service") else found


def _context(trace_id: int, span_id: int, *, remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(TraceFlags.SAMPLED))


def _readable(span: Span, trace_id: int) -> ReadableSpan:
    return ReadableSpan(
        name=span.name,
        context=_context(trace_id, span.span_id),
        parent=_context(trace_id, span.parent, remote=True) if span.parent is not None else None,
        resource=_resource(),
        attributes=span.attributes,
        events=[Event(each.name, each.attributes, timestamp=each.at * _MS) for each in span.happenings],
        kind=_KINDS[span.kind],
        status=Status(StatusCode.ERROR, span.error) if span.error is not None else Status(StatusCode.UNSET),
        start_time=span.start * _MS,
        end_time=span.end * _MS,
        instrumentation_scope=_SCOPE,
    )
