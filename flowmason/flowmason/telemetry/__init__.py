"""Telemetry: a reader of journals that tells OpenTelemetry of runs, and the one form of log lines.

Nothing of it is imported or done where `OTEL_EXPORTER_OTLP_ENDPOINT` is not set.
"""

from __future__ import annotations

from flowmason.telemetry.context import OPTION, Traceparent, current, exports
from flowmason.telemetry.following import Tracing

__all__ = ["OPTION", "Traceparent", "Tracing", "current", "exports"]
