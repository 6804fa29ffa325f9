"""The query spans of OpenTelemetry's own instrumentations become children of the hold or transaction (L3).

Where one of them is about to start its span, the span of the hold is made current, and for this call only:
between two calls it would become the parent of unrelated spans, and a leaked one of all later spans. What is
hooked are the instrumentations and not the drivers: without any of them this costs nothing.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import attach, detach
from opentelemetry.trace import Span

from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.otel import queries_asyncpg, queries_sqlalchemy
from otel_connleak.otel.belonging import is_part_of
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

type Asked = Callable[..., tuple[Any, Any]]
"""Tells, of the arguments of a function, which connection is asked what: the statement, or None."""
type Around = Callable[[Asked], Callable[[Any], Any]]
"""Makes what replaces a function that starts a query span by one in which the span of the hold is current."""


class QuerySpans:
    """Hooks what starts query spans; `install` and `uninstall` are exact inverses."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._installed: list[Patches] = []

    def install(self, module: Any) -> None:
        """Hook one of `MODULES` that was imported, if it still is what we know. Never raises."""
        patches = Patches()
        try:
            _HOOKS[module.__name__](module, patches, lambda asked: partial(self._around, patches, asked))
        except Exception as error:
            patches.undo()
            if not isinstance(error, AttributeError):
                failed(f"hooking {module.__name__}")
        else:
            self._installed.append(patches)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        while self._installed:
            self._installed.pop().undo()

    def _around(self, patches: Patches, asked: Asked, original: Any) -> Any:
        """A function, or coroutine function, within which the span of a hold is current."""
        if inspect.iscoroutinefunction(original):

            @functools.wraps(original)
            async def query_async(*args: Any, **kwargs: Any) -> Any:
                # Entered and left in the same task: a context must be detached where it was attached.
                token = self._enter(asked, args, kwargs) if patches.active else None
                try:
                    return await original(*args, **kwargs)
                finally:
                    if token is not None:
                        detach(token)

            return query_async

        @functools.wraps(original)
        def query(*args: Any, **kwargs: Any) -> Any:
            token = self._enter(asked, args, kwargs) if patches.active else None
            try:
                return original(*args, **kwargs)
            finally:
                if token is not None:
                    detach(token)

        return query

    def _enter(self, asked: Asked, args: Any, kwargs: Any) -> Any:
        """Make the span current that is to be the parent; returns what to detach, or None."""
        try:
            connection, statement = asked(*args, **kwargs)
            hold = self._registry.hold_of(connection) if connection is not None else None
            span = self._span_for(hold, connection, statement) if hold is not None else None
            if span is not None:
                return attach(trace.set_span_in_context(span))
        except Exception:
            failed("query span")
        return None

    def _span_for(self, hold: Hold, connection: Any, statement: Any) -> Span | None:
        """The span to which a query on a connection belongs: of its transaction, else of its hold, or None.

        Not one that is not recorded: it would take the query's span with it.
        """
        if hold.inner is None:
            # A transaction that this statement begins must be there before the span of the statement is.
            self._registry.transactions.expect(hold, connection, statement)
        current = trace.get_current_span().get_span_context().trace_id
        for each in (hold.inner, hold):
            span = each.span if each is not None else None
            if isinstance(span, Span) and span.is_recording() and is_part_of(each, current):
                return span
        return None


def _hook_dbapi(module: Any, patches: Patches, around: Around) -> None:
    """Every instrumentation built on this one starts its spans in these two methods."""
    for name in ("traced_execution", "traced_execution_async"):
        patches.replace(module.CursorTracer, name, around(_asked_of_cursor))


def _asked_of_cursor(_tracer: Any, cursor: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    # The first further argument is the cursor's method. Not every driver's cursor tells its connection.
    statement = args[1] if len(args) > 1 else kwargs.get("query")
    return getattr(cursor, "connection", None), statement


_HOOKS: Final[dict[str, Callable[[Any, Patches, Around], None]]] = {
    "opentelemetry.instrumentation.dbapi": _hook_dbapi,
    "opentelemetry.instrumentation.asyncpg": queries_asyncpg.hook,
    "opentelemetry.instrumentation.sqlalchemy.engine": queries_sqlalchemy.hook,
}
MODULES: Final = tuple(_HOOKS)
"""The modules whose import means that such an instrumentation is in use."""
