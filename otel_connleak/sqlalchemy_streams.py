"""SQLAlchemy's results that are read while the server still has the rows: cursors (L1).

These are the results of ``stream_results``, ``yield_per`` and the asyncio ``stream``. SQLAlchemy reads them
by a strategy of its own, which tells them from all others. What is tracked is not the result, which cannot be
weakly referenced, but its context, to which every object leads by which the rows can be read. SQLite has no
server: a result that is dropped there leaves nothing open.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from otel_connleak.connection import Kind, Transaction
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_HINT: Final = "use `with connection.execute(…) as result:`, or read it to its end on every path"
_ASYNC_HINT: Final = (
    "use `async with connection.stream(…) as result:`, or `await result.close()` on every path"
)


class StreamHooks:
    """What replaces the functions of SQLAlchemy.

    Args:
        registry: is told.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        hold_of: gives the hold of a `sqlalchemy.Connection`, or None.
    """

    def __init__(self, registry: Registry, patches: Patches, hold_of: Callable[[Any], Hold | None]) -> None:
        self._registry = registry
        self._patches = patches
        self._hold_of = hold_of

    def install(self) -> None:
        """Hook it. Raises `AttributeError` if it has changed."""
        from sqlalchemy.engine.cursor import BufferedRowCursorFetchStrategy
        from sqlalchemy.engine.default import DefaultExecutionContext

        self._streams = BufferedRowCursorFetchStrategy
        self._patches.replace(DefaultExecutionContext, "_setup_result_proxy", self._opens)
        for name in ("soft_close", "hard_close"):
            self._patches.replace(BufferedRowCursorFetchStrategy, name, self._closes)

    def _opens(self, original: Any) -> Any:
        streams, patches = self._streams, self._patches

        @functools.wraps(original)
        def _setup_result_proxy(context: Any) -> Any:
            result = original(context)
            # Every execute comes here.
            if type(result.cursor_strategy) is streams and patches.active:
                self._opened(context, result, sys._getframe(1))
            return result

        return _setup_result_proxy

    def _opened(self, context: Any, result: Any, frame: FrameType) -> None:
        try:
            hold = None if result._soft_closed else self._hold_of(result.connection)
            if hold is None or not hold.tracked.facts.has_server:
                return
            tracked = self._registry.track(
                context, hold.tracked.facts, _unknown, hold.tracked.pool, kind=Kind.CURSOR
            )
            tracked.library = hold.tracked.library
            tracked.hint = _ASYNC_HINT if context.dialect.is_async else _HINT
            self._registry.transactions.open_cursor(hold, tracked, frame)
        except Exception:
            failed("sqlalchemy stream")

    def _closes(self, original: Any) -> Any:
        @functools.wraps(original)
        def close(strategy: Any, result: Any, *args: Any) -> Any:
            try:
                cursor = self._registry.hold_of(result.context)
                if cursor is not None:
                    self._registry.transactions.close_cursor(cursor)
            except Exception:
                failed("sqlalchemy stream")
            return original(strategy, result, *args)

        return close


def _unknown(_context: Any) -> Transaction:
    return Transaction.UNKNOWN
