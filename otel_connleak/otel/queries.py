"""The query spans of the drivers' own OpenTelemetry instrumentations become children of the hold (L3).

Every one of them that is built on ``opentelemetry-instrumentation-dbapi`` opens its span in
``CursorTracer.traced_execution``. The hold span is made current around this call and no longer: between two
calls it would become the parent of unrelated spans, and a leaked one of all later spans.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span

from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

DBAPI_MODULE: Final = "opentelemetry.instrumentation.dbapi"
"""The module whose import means that such an instrumentation is in use."""


class QuerySpans:
    """Hooks ``CursorTracer``; `install` and `uninstall` are exact inverses."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._patches = Patches()

    def install(self, module: Any) -> None:
        """Hook the imported module. Does nothing if it has no such class or method any more."""
        try:
            self._patches.replace(module.CursorTracer, "traced_execution", self._traced)
            self._patches.replace(module.CursorTracer, "traced_execution_async", self._traced_async)
        except AttributeError:
            self._patches.undo()

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    def _enter(self, cursor: Any) -> Any:
        """Make the hold span of a cursor's connection current; returns what to detach, or None."""
        try:
            hold = self._registry.hold_of(cursor.connection) if self._patches.active else None
            if hold is not None and isinstance(hold.span, Span) and _is_in_trace(hold):
                return attach(trace.set_span_in_context(hold.span))
        except Exception:
            failed("CursorTracer.traced_execution")
        return None

    def _traced(self, original: Any) -> Any:
        @functools.wraps(original)
        def traced_execution(tracer: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
            token = self._enter(cursor)
            try:
                return original(tracer, cursor, *args, **kwargs)
            finally:
                if token is not None:
                    detach(token)

        return traced_execution

    def _traced_async(self, original: Any) -> Any:
        @functools.wraps(original)
        async def traced_execution_async(tracer: Any, cursor: Any, *args: Any, **kwargs: Any) -> Any:
            # Entered and left in the same task: a context must be detached where it was attached.
            token = self._enter(cursor)
            try:
                return await original(tracer, cursor, *args, **kwargs)
            finally:
                if token is not None:
                    detach(token)

        return traced_execution_async


def _is_in_trace(hold: Hold) -> bool:
    """Whether what happens now belongs to the trace of a hold: a connection may outlive its request."""
    return trace.get_current_span().get_span_context().trace_id in (0, hold.trace)
