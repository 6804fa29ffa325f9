"""Leaks and recoveries as OTLP log events: no sampler touches them (L3)."""

from __future__ import annotations

import time
from typing import Any

from opentelemetry import trace
from opentelemetry._logs import Logger, LogRecord, SeverityNumber
from opentelemetry.context import Context

from otel_connleak import names
from otel_connleak.claim import Leak
from otel_connleak.otel.attributes import of_idle, of_leak, of_recovery
from otel_connleak.unnecessary import Idle


class LeakEvents:
    """Emits ``connleak.leak``, ``connleak.recovered``, ``connleak.idle`` with the trace context of the hold.

    Args:
        logger: the logger of the provider in use.
    """

    def __init__(self, logger: Logger) -> None:
        self._logger = logger

    def leak(self, leak: Leak) -> None:
        """A leak was found."""
        body = f"{leak.kind} leak ({leak.certainty}, {', '.join(leak.evidence)}): {leak.function}"
        self._emit(names.LEAK_EVENT, leak.hold.span, body, of_leak(leak), SeverityNumber.WARN)

    def recovered(self, leak: Leak) -> None:
        """A reported leak was released after all; carries the same id."""
        body = f"recovered: {leak.function} released the {leak.kind} late; not a leak"
        self._emit(names.RECOVERED_EVENT, leak.hold.span, body, of_recovery(leak), SeverityNumber.INFO)

    def idle(self, idle: Idle) -> None:
        """A hold that was released had sat idle for long."""
        body = f"{idle.title}: {idle.report.function}"
        self._emit(names.IDLE_EVENT, idle.span, body, of_idle(idle.report), SeverityNumber.WARN)

    def _emit(
        self, event: str, span: Any, body: str, attributes: dict[str, Any], severity: SeverityNumber
    ) -> None:
        now = time.time_ns()
        self._logger.emit(
            LogRecord(
                timestamp=now,
                observed_timestamp=now,
                context=_context(span),
                severity_number=severity,
                severity_text=severity.name,
                body=body,
                attributes=attributes,
                event_name=event,
            )
        )


def _context(span: Any) -> Context:
    if isinstance(span, trace.SpanContext):
        context = span  # there is no span of the hold: the context in which it was acquired
    else:
        context = span.get_span_context() if span is not None else trace.INVALID_SPAN_CONTEXT
    return trace.set_span_in_context(trace.NonRecordingSpan(context), Context())
