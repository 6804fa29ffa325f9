"""The connections that are known, for as long as they live (L1)."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from otel_connleak.connection import Facts, Kind, Pool, Tracked, Transaction, tracked_of
from otel_connleak.hold import Hold
from otel_connleak.native import RLock


class Connections:
    """What is known of each connection, by its identity. `hold_of` is hot, the rest is not.

    Args:
        put: the watchdog's inbox; called by the garbage collector with a `Tracked` whose connection has died.
    """

    def __init__(self, put: Callable[[object], None]) -> None:
        self._put = put
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self.clear_connections()

    def clear_connections(self) -> None:
        """Begin anew; also after a fork, when the lock may have been held by a thread that is not here."""
        self._lock = RLock()
        self._tracked: dict[int, Tracked] = {}

    def track(
        self,
        connection: Any,
        facts: Facts,
        transaction: Callable[[Any], Transaction],
        pool: Pool | None,
        *,
        kind: Kind = Kind.CONNECTION,
        by_design: bool = False,
    ) -> Tracked:
        """Remember a connection, or what else is held, for its whole life; the words are those of `Tracked`.

        Raises `TypeError` if it cannot be weakly referenced.
        """
        tracked = tracked_of(connection, self._put, facts, transaction, pool, kind, by_design)
        self._tracked[id(connection)] = tracked
        if pool is not None:
            self._pools.add(pool)
        return tracked

    def forget(self, tracked: Tracked) -> None:
        """Forget a connection that has died. Its ``id`` may belong to another one by now."""
        with self._lock:
            if self._tracked.get(tracked.key) is tracked:
                del self._tracked[tracked.key]

    def hold_of(self, connection: Any) -> Hold | None:
        """The open hold of a connection, or None."""
        tracked = self._tracked.get(id(connection))
        if tracked is None:
            return None
        referent = tracked()  # as in `Tracked.may_be`, without the call
        hold: Hold | None = tracked.hold if referent is connection or referent is None else None
        return hold

    def closing(self, connection: Any) -> Tracked | None:
        """What is known about a connection in its finalizer."""
        tracked = self._tracked.get(id(connection))
        return tracked if tracked is not None and tracked.may_be(connection) else None

    def reconnected(self, connection: Any, facts: Facts) -> Hold | None:
        """An object that is known leads to another process of the server now; its open hold goes on.

        Returns:
            That hold, or None: then the connection is not held, or not known.
        """
        tracked = self._tracked.get(id(connection))
        if tracked is None or tracked() is not connection:
            return None
        tracked.facts, tracked.attributes, tracked.closed = facts, None, False
        hold: Hold | None = tracked.hold
        return hold

    def leave_pool(self, connection: Any) -> None:
        """A connection that is held leaves its pool for good: it is a direct one from now on."""
        hold = self.hold_of(connection)
        with self._lock:
            if hold is not None and hold.is_open:
                pool, hold.pool, hold.tracked.pool = hold.pool, None, None
                if pool is not None:
                    pool.open -= 1
