"""The span processor: sees local root spans end, and lets reports leave before the exporters stop (L3)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor
from opentelemetry.trace import SpanKind

from otel_connleak import runtime
from otel_connleak.guard import failed
from otel_connleak.names import INSTRUMENTATION
from otel_connleak.otel.calls import is_call, name_of

_running_loop = asyncio._get_running_loop


class ConnLeakSpanProcessor(SpanProcessor):
    """Tells the running instrumentation of local root spans, of flush and of shutdown.

    The instrumentor adds one to the tracer provider. A user who builds the SDK by hand can add one too, best
    before the exporting processor, so that the reports made at shutdown are still exported; several of them
    report once. Thread-safe; an exception here would reach the application, so there is none.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Remember a local root span: one without a parent in this process."""
        parent = span.parent
        if parent is not None and not parent.is_remote:
            return
        running = runtime.current
        if running is None or _is_no_request(span):
            return
        try:
            loop = _running_loop()
            task = asyncio.current_task(loop) if loop is not None else None
            context = span.get_span_context()
            running.root_started(context.trace_id, context.span_id, id(task) if task is not None else 0)
        except Exception:
            failed("ConnLeakSpanProcessor.on_start")

    def on_end(self, span: ReadableSpan) -> None:
        """A span ended; if it is a local root, what it still holds is a claim after the grace."""
        running = runtime.current
        if running is not None and running.call_ended is not None:
            _call_ended(running.call_ended, span)
        parent = span.parent
        if parent is not None and not parent.is_remote:
            return
        context: Any = span.context
        if running is None or context is None or _is_no_request(span):
            return
        try:
            running.root_ended(context.span_id)
        except Exception:
            failed("ConnLeakSpanProcessor.on_end")

    def shutdown(self) -> None:
        """Report what nobody can release any more; idempotent."""
        running = runtime.current
        if running is not None:
            try:
                running.shutdown()
            except Exception:
                failed("ConnLeakSpanProcessor.shutdown")

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Wait until what was observed so far has been reported.

        Args:
            timeout_millis: milliseconds to wait at the most.

        Returns:
            Whether it was done in time.
        """
        running = runtime.current
        if running is None:
            return True
        try:
            return running.flush(timeout_millis / 1000)
        except Exception:
            failed("ConnLeakSpanProcessor.force_flush")
            return False


def add_in_front(provider: Any, processor: SpanProcessor) -> None:
    """Add a processor to a tracer provider, before its others where that is possible."""
    provider.add_span_processor(processor)
    several: Any = getattr(provider, "_active_span_processor", None)
    processors = getattr(several, "_span_processors", None)
    if isinstance(processors, tuple) and processors and processors[-1] is processor:
        with several._lock:
            others = [other for other in several._span_processors if other is not processor]
            several._span_processors = (processor, *others)


def take_out(provider: Any, processor: SpanProcessor) -> None:
    """Take a processor out again; where there is no way to do so it stays."""
    several: Any = getattr(provider, "_active_span_processor", None)
    if isinstance(getattr(several, "_span_processors", None), tuple):
        with several._lock:
            others = [other for other in several._span_processors if other is not processor]
            several._span_processors = tuple(others)


def _call_ended(told: Callable[[int, float, Callable[[], str]], None], span: ReadableSpan) -> None:
    """Tell of a span if it is one of a call to another service."""
    try:
        context, started, ended = span.context, span.start_time, span.end_time
        if context is not None and started is not None and ended is not None and is_call(span):
            told(context.trace_id, (ended - started) / 1e9, lambda: name_of(span))
    except Exception:
        failed("ConnLeakSpanProcessor.on_end")


def _is_no_request(span: ReadableSpan) -> bool:
    """Whether a local root is a span of ours, or a single call.

    Where there is no request, SQLAlchemy's instrumentation makes such a span of the connect, and the
    connection is held afterwards.
    """
    if span.kind is SpanKind.CLIENT:
        return True
    scope = span.instrumentation_scope
    return scope is not None and scope.name == INSTRUMENTATION
