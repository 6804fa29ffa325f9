"""psycopg_pool: ConnectionPool, NullConnectionPool, AsyncConnectionPool, AsyncNullConnectionPool (L2).

``connection()``, ``close_returns`` and the Null pools all go through ``getconn`` and ``putconn``. Failures of
a reset or a check go through ``_putconn`` and are not the application's releases. The pool keeps no reference
to a connection that is out: one that is dropped is lost for ever, and the pool says nothing.
"""

from __future__ import annotations

import functools
import sys
import weakref
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers.psycopg import DRIVER
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools
from otel_connleak.registry import Registry

_SOURCE: Final = "psycopg_pool"
_HINT: Final = "use `with pool.connection() as conn:` so that it is returned on every path"
_ASYNC_HINT: Final = "use `async with pool.connection() as conn:` so that it is returned on every path"


class PsycopgPoolAdapter:
    """Hooks ``getconn``, ``putconn``, and ``_connect``, which is the pool's own acquire from the driver."""

    module = "psycopg_pool"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook both classes; the Null pools inherit from them. Raises `AttributeError` if they changed."""
        from psycopg_pool import AsyncConnectionPool, ConnectionPool

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(ConnectionPool, "getconn", self._getconn)
        replace(ConnectionPool, "putconn", self._putconn)
        replace(ConnectionPool, "_connect", hooks.connects)
        replace(AsyncConnectionPool, "getconn", self._async_getconn)
        putconn = functools.partial(hooks.releases_async, at=1, refuses=True)
        replace(AsyncConnectionPool, "putconn", putconn)
        replace(AsyncConnectionPool, "_connect", hooks.connects_async)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _track(self, connection: Any, pool: Any) -> Tracked:
        """The connection's first acquire: it belongs to this pool for its whole life."""
        facts = DRIVER.facts(connection)
        return self._registry.track(connection, facts, DRIVER.transaction, self._pools.of(pool, facts))

    def _refused(self, hold: Hold) -> None:
        """The pool raised: it has not taken the connection, and the application still holds it."""
        try:
            self._registry.reinstate(hold)
        except Exception:
            failed("psycopg_pool putconn")

    def _getconn(self, original: Any) -> Any:
        patches, acquire, track = self._patches, self._registry.acquire, self._track

        @functools.wraps(original)
        def getconn(pool: Any, timeout: float | None = None) -> Any:
            connection = original(pool, timeout)
            if patches.active and not inside.get():
                try:
                    acquire(_SOURCE, connection, sys._getframe(1), track, pool)
                except Exception:
                    failed("psycopg_pool getconn")
            return connection

        return getconn

    def _putconn(self, original: Any) -> Any:
        patches, release, released = self._patches, self._registry.release, self._registry.released

        @functools.wraps(original)
        def putconn(pool: Any, conn: Any) -> Any:
            hold = None
            if patches.active:
                try:
                    hold = release(_SOURCE, conn)
                except Exception:
                    failed("psycopg_pool putconn")
            if hold is None:
                return original(pool, conn)
            try:
                result = original(pool, conn)
            except BaseException:
                self._refused(hold)
                raise
            try:
                released(hold)
            except Exception:
                failed("psycopg_pool putconn")
            return result

        return putconn

    def _async_getconn(self, original: Any) -> Any:
        patches, acquire, track = self._patches, self._registry.acquire, self._track

        @functools.wraps(original)
        async def getconn(pool: Any, timeout: float | None = None) -> Any:  # noqa: ASYNC109 -- as the pool's
            connection = await original(pool, timeout)
            if patches.active and not inside.get():
                try:
                    acquire(_SOURCE, connection, sys._getframe(1), track, pool)
                except Exception:
                    failed("psycopg_pool getconn")
            return connection

        return getconn


def _record(reference: weakref.ref[Any], _facts: Facts) -> Pool:
    pool: Any = reference()

    def figures() -> tuple[int | None, int | None]:
        live = reference()
        return (None, None) if live is None else (live.max_size, _waiting(live))

    return Pool(pool.name, figures, _ASYNC_HINT if type(pool).__name__.startswith("Async") else _HINT)


def _waiting(pool: Any) -> int:
    """Requests that wait for a connection now. The pool's own figure counts those that have timed out too."""
    return sum(1 for client in list(pool._waiting) if client.conn is None and client.error is None)
