"""Cursors whose rows the server keeps until somebody closes them: holds of their own (L1)."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Kind, Tracked, Transaction
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.nesting import connects_for_a_pool
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry


class ServerCursors:
    """The server's cursors of one adapter.

    `opened` and `closed` never raise; they are called in the thread or task that uses the connection. The
    hooks are for cursors that have psycopg's attributes ``connection`` and ``withhold``.

    Args:
        source: the adapter's name, for what is logged.
        registry: has the holds.
        patches: of the adapter: while they are not active, the hooks do nothing but call the original.
        hint: one sentence that says how a cursor is closed on every path.
    """

    def __init__(self, source: str, registry: Registry, patches: Patches, hint: str) -> None:
        self._source = source
        self._registry = registry
        self._patches = patches
        self._hint = hint

    # --- hooks ---------------------------------------------------------------------------------------------

    def opens(self, original: Any) -> Any:
        """For a method that lets the server open the cursor, in place of one that it has perhaps."""

        @functools.wraps(original)
        def execute(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            outermost = self._may_open(cursor)
            try:
                result = original(cursor, *args, **kwargs)
            except BaseException:
                self._refused(cursor)
                raise
            if outermost:
                self._reopened(cursor, sys._getframe(1), args[0] if args else kwargs.get("query"))
            return result

        return execute

    def opens_async(self, original: Any) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def execute(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            outermost = self._may_open(cursor)
            try:
                result = await original(cursor, *args, **kwargs)
            except BaseException:
                self._refused(cursor)
                raise
            if outermost:
                self._reopened(cursor, sys._getframe(1), args[0] if args else kwargs.get("query"))
            return result

        return execute

    def closes(self, original: Any) -> Any:
        """For a method that closes the cursor."""

        @functools.wraps(original)
        def close(cursor: Any) -> Any:
            try:
                return original(cursor)
            finally:
                self.closed(cursor)

        return close

    def closes_async(self, original: Any) -> Any:
        """The same for a coroutine function."""

        @functools.wraps(original)
        async def close(cursor: Any) -> Any:
            try:
                return await original(cursor)
            finally:
                self.closed(cursor)

        return close

    def fetches(self, original: Any, asked_for: Callable[[Any, Any, Any], int | None]) -> Any:
        """For a method that fetches rows: with fewer than it was asked for there are no more.

        Args:
            original: the method.
            asked_for: how many rows, by the cursor and the arguments; None are all, 0 is one without a list.
        """

        @functools.wraps(original)
        def fetch(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            rows = original(cursor, *args, **kwargs)
            if self._patches.active and _is_last(rows, asked_for(cursor, args, kwargs)):
                self.closed(cursor)
            return rows

        return fetch

    def _may_open(self, cursor: Any) -> bool:
        """Whether this is the application's call, and not one within another that is hooked as well."""
        try:
            hold = self._registry.hold_of(cursor.connection) if self._patches.active else None
            return hold is not None and hold.busy_since is None
        except Exception:
            failed(f"{self._source} cursor")
            return False

    def _refused(self, cursor: Any) -> None:
        """It was executed again, and that failed: perhaps before the one before was closed."""
        if not getattr(cursor, "_described", True):
            self.closed(cursor)

    def _reopened(self, cursor: Any, frame: Any, statement: Any) -> None:
        self.closed(cursor)
        try:
            hold = self._registry.hold_of(cursor.connection)
            if hold is not None and not isinstance(hold.statement, str | bytes):
                hold.statement = statement  # what the driver has made of it begins with DECLARE
        except Exception:
            failed(f"{self._source} cursor")
        self.opened(cursor.connection, cursor, frame, outlives=bool(cursor.withhold))

    # --- what is known of them -----------------------------------------------------------------------------

    def opened(self, connection: Any, cursor: Any, frame: Any, *, outlives: bool = False) -> None:
        """The server has opened a cursor.

        Not one that a library has opened which keeps connections for the application: that is not the
        application's to close.

        Args:
            connection: whose cursor it is, as it is tracked.
            cursor: or what stands for it: lives as long as it does, and can be weakly referenced.
            frame: the frame that called the adapter's hook.
            outlives: it does not end with its transaction (``WITH HOLD``).
        """
        try:
            registry = self._registry
            hold = registry.hold_of(connection)
            if hold is None or registry.hold_of(cursor) is not None or connects_for_a_pool(frame):
                return
            of_connection = hold.tracked
            tracked = registry.track(
                cursor, of_connection.facts, _status_of(of_connection), hold.pool, kind=Kind.CURSOR
            )
            tracked.hint = self._hint
            registry.transactions.open_cursor(hold, tracked, frame, outlives=outlives)
        except Exception:
            failed(f"{self._source} cursor")

    def closed(self, cursor: Any) -> None:
        """A cursor was closed, or has no more rows. Idempotent; nothing happens if it is not known."""
        try:
            hold: Hold | None = self._registry.hold_of(cursor)
            if hold is not None:
                self._registry.transactions.close_cursor(hold)
        except Exception:
            failed(f"{self._source} cursor")


def _is_last(rows: Any, asked_for: int | None) -> bool:
    if asked_for is None:
        return True
    return len(rows) < asked_for if asked_for else rows is None


def _status_of(of_connection: Tracked) -> Any:
    """Reads the transaction status of the connection; who has the cursor has that, too."""

    def transaction(_cursor: Any) -> Transaction:
        connection = of_connection()
        return Transaction.UNKNOWN if connection is None else of_connection.transaction(connection)

    return transaction
