"""An adapter of a third party, for psycopg2's pool: as much of it as shows a pool that keeps what is out."""

import functools
import sys
import weakref
from typing import Any

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked, Transaction
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_SOURCE = "psycopg2_pool"


class Psycopg2PoolAdapter:
    """Hooks the pool that threads share."""

    module = "psycopg2.pool"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools: dict[int, Pool] = {}

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook it."""
        from psycopg2.pool import ThreadedConnectionPool

        self._registry = registry
        self._patches.replace(ThreadedConnectionPool, "getconn", self._getconn)
        self._patches.replace(ThreadedConnectionPool, "putconn", self._putconn)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    def _track(self, connection: Any, pool: Any) -> Tracked:
        facts = Facts("postgresql", connection.info.dbname, server_pid=connection.info.backend_pid)
        return self._registry.track(connection, facts, lambda _: Transaction.UNKNOWN, self._pool_of(pool))

    def _pool_of(self, pool: Any) -> Pool:
        known = self._pools.get(id(pool))
        if known is None:
            library = weakref.ref(pool)

            def keeps(connection: Any) -> int:
                used = getattr(library(), "_used", {})
                return sum(other is connection for other in list(used.values()))

            known = self._pools[id(pool)] = Pool(
                "orders", lambda: (pool.maxconn, None), keeps=keeps, library=library
            )
        return known

    def _getconn(self, original: Any) -> Any:
        @functools.wraps(original)
        def getconn(pool: Any, key: Any = None) -> Any:
            connection = original(pool, key)
            self._registry.acquire(_SOURCE, connection, sys._getframe(1), self._track, pool)
            return connection

        return getconn

    def _putconn(self, original: Any) -> Any:
        @functools.wraps(original)
        def putconn(pool: Any, conn: Any = None, key: Any = None, close: bool = False) -> Any:
            hold = self._registry.release(_SOURCE, conn)
            original(pool, conn, key, close)
            if hold is not None:
                self._registry.released(hold)

        return putconn
