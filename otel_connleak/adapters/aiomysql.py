"""aiomysql: its pool, direct connections, and the driver calls of both (L2).

The pool keeps what it has handed out: a connection that is dropped is never collected, and its slot is lost.
To close a pooled connection does not give its slot back, only ``release`` does. A direct connection is closed
by aiomysql itself after an error of the network, or when a query is cancelled: it holds nothing from then on.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Final

from otel_connleak import row_status
from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers.aiomysql import DRIVER
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.reconnecting import Reconnecting
from otel_connleak.registry import Registry
from otel_connleak.server_cursors import ServerCursors

_DIRECT: Final = "aiomysql"
_POOL: Final = "aiomysql_pool"
_HINT: Final = "use `async with pool.acquire() as connection:` so that it is released on every path"
_CURSOR_HINT: Final = "use `async with connection.cursor(…) as cursor:`, which reads the rest on every path"
_CALLS: Final = "next_result begin commit rollback autocommit select_db show_warnings".split()
_FETCHES: Final = "_read_rowdata_packet_unbuffered _finish_unbuffered_query".split()


class AiomysqlAdapter:
    """Hooks acquire, release and terminate of `Pool`, connect and close, and the driver calls."""

    module = "aiomysql"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_pool)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook aiomysql. Raises `AttributeError` if it has changed."""
        from aiomysql.pool import Pool as Library

        self._registry = registry
        self._install_driver()
        pooled = Hooks(_POOL, registry, self._patches)
        replace = self._patches.replace
        replace(Library, "_acquire", lambda acquire: pooled.acquires_async(acquire, self._track_pooled))
        replace(Library, "_fill_free_pool", pooled.connects_async)
        replace(Library, "release", lambda release: pooled.releases(release, at=1, refuses=True))
        replace(Library, "terminate", self._terminates)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _install_driver(self) -> None:
        from aiomysql import connection as module

        direct = Hooks(_DIRECT, self._registry, self._patches)
        again = Reconnecting(_DIRECT, self._registry, self._patches, _session, DRIVER.facts, self._track)
        calls = functools.partial(direct.calls_async, transaction=DRIVER.transaction)
        replace = self._patches.replace
        replace(module, "_connect", lambda connect: direct.acquires_async(connect, self._track, direct=True))
        connection = module.Connection
        replace(connection, "close", lambda close: again.closes(close, direct.releases(close)))
        replace(connection, "ensure_closed", direct.releases_async)
        # It closes what was dropped: that is no release.
        replace(connection, "__del__", direct.connects)
        replace(connection, "ping", lambda ping: calls(again.connects_async(ping, anew=True)))
        replace(connection, "query", functools.partial(calls, statement=True))
        cursors = ServerCursors(_DIRECT, self._registry, self._patches, _CURSOR_HINT)
        row_status.hook(self._patches, connection, module.MySQLResult, cursors)
        for name in _CALLS:
            replace(connection, name, calls)
        for name in _FETCHES:
            replace(module.MySQLResult, name, lambda fetch: calls(fetch, subject=_connection_of))

    def _track(self, connection: Any) -> Tracked:
        tracked = self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)
        tracked.keeps = _own_references
        return tracked

    def _track_pooled(self, connection: Any, pool: Any) -> Tracked:
        facts = DRIVER.facts(connection)
        record = self._pools.of(pool, facts)
        tracked = self._registry.track(connection, facts, DRIVER.transaction, record)
        tracked.keeps = _own_references
        return tracked

    def _terminates(self, original: Any) -> Any:
        @functools.wraps(original)
        def terminate(pool: Any) -> Any:
            result = original(pool)
            if self._patches.active:
                try:
                    # They are closed, and the pool is at its end: nothing is held any more.
                    for connection in list(pool._terminated):
                        hold = self._registry.release(_POOL, connection)
                        if hold is not None:
                            self._registry.released(hold)
                except Exception:
                    failed("aiomysql terminate")
            return result

        return terminate


def _pool(reference: weakref.ref[Any], facts: Facts) -> Pool:
    def figures() -> tuple[int | None, int | None]:
        pool = reference()
        if pool is None:
            return None, None
        condition = pool._cond
        # While the pool connects for one task the others wait for its lock.
        waiting = len(condition._waiters) + len(condition._lock._waiters or ())
        return pool.maxsize, waiting

    def keeps(connection: Any) -> int:
        return int(connection in getattr(reference(), "_used", ()))

    return Pool(name_of(facts), figures, _HINT, keeps, reference)


def _session(connection: Any) -> Any:
    return connection._writer


def _connection_of(result: Any) -> Any:
    return result.connection


def _own_references(connection: Any) -> int:
    """An unbuffered result and its connection refer to each other while there are rows to read."""
    result = connection._result
    return int(result is not None and result.connection is connection)
