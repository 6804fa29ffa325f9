"""psycopg2.pool: SimpleConnectionPool, ThreadedConnectionPool, and classes made of their base (L2).

The pool refers to what it has handed out, under a key: a dropped connection is never collected, its slot is
lost, and nothing says so. Most applications leave the key to the pool. One that gives a key of its own, the
name of a thread for example, may ask for the same connection under it again and again, from whatever
function, until it is put back: then no function is its owner, and it is reported only when its thread ends.
Nor is one the owner of its transaction, which any may end; but it must not lie idle in it.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Kind, Pool, Tracked, tracked_of
from otel_connleak.drivers import driver_of, unwrapped
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.native import get_ident
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_SOURCE: Final = "psycopg2_pool"
_HINT: Final = (
    "use `try … finally: pool.putconn(connection)` so that it is returned on every path; "
    "`with connection:` only ends the transaction"
)


class Psycopg2PoolAdapter:
    """Hooks what gets, puts and connects, in the base class too: others than psycopg2 derive from it."""

    module = "psycopg2.pool"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(self._record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook the three classes. Raises `AttributeError` if they have changed."""
        from psycopg2.pool import AbstractConnectionPool, SimpleConnectionPool, ThreadedConnectionPool

        self._registry = registry
        self._hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        # These, which take the pool's lock, acquire before those that they call below: those then do nothing.
        for pool in (SimpleConnectionPool, ThreadedConnectionPool):
            replace(pool, "getconn", self._getconn)
            replace(pool, "putconn", self._putconn)
            replace(pool, "closeall", self._closeall)
        replace(AbstractConnectionPool, "_getconn", self._getconn)
        replace(AbstractConnectionPool, "_putconn", self._putconn)
        replace(AbstractConnectionPool, "_closeall", self._closeall)
        # Both, because a derived class may connect in a way of its own.
        replace(AbstractConnectionPool, "__init__", self._hooks.connects)
        replace(AbstractConnectionPool, "_connect", self._hooks.connects)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _record(self, reference: weakref.ref[Any], facts: Facts) -> Pool:
        def figures() -> tuple[int | None, int | None]:
            pool = reference()
            return (None, None) if pool is None else (pool.maxconn, None)  # nobody waits: it raises

        def keeps(connection: Any) -> int:
            hold = self._registry.hold_of(connection)
            if hold is not None and hold.tracked.by_design:
                return -1  # who knows the key gets it again
            used = getattr(reference(), "_used", {})
            return sum(other is connection for other in list(used.values()))

        return Pool(name_of(facts), figures, _HINT, keeps=keeps, library=reference)

    def _track(self, connection: Any, pool: Any) -> Tracked:
        """The connection's first acquire: it belongs to this pool for its whole life."""
        driver = driver_of(connection)
        facts = driver.facts(connection)
        record = self._pools.of(pool, facts)
        tracked = self._registry.track(connection, facts, driver.transaction, record)
        # Made here, because under a key no function is the owner of a transaction either.
        transactions = tracked.transactions = tracked_of(
            connection, None, facts, driver.transaction, record, Kind.TRANSACTION, False
        )
        transactions.hint = driver.transaction_hint
        return tracked

    def _got_by_key(self, given: Any) -> Any:
        """The connection, or None if this thread holds it since it has asked for the key before."""
        connection = unwrapped(given)
        hold = self._registry.hold_of(connection)
        return None if hold is not None and hold.thread.ident == get_ident() else connection

    def _getconn(self, original: Any) -> Any:
        without_key = self._hooks.acquires(original, self._track, unwrapped)
        with_key = self._hooks.acquires(original, self._track, self._got_by_key)

        @functools.wraps(original)
        def getconn(pool: Any, *args: Any, **kwargs: Any) -> Any:
            has_key = (args[0] if args else kwargs.get("key")) is not None
            given = (with_key if has_key else without_key)(pool, *args, **kwargs)
            if self._patches.active:
                try:
                    hold = self._registry.hold_of(unwrapped(given))
                    if hold is not None and hold.source == _SOURCE:
                        hold.tracked.by_design = has_key
                        if hold.tracked.transactions is not None:
                            hold.tracked.transactions.by_design = has_key
                except Exception:
                    failed("psycopg2_pool getconn")
            return given

        return getconn

    def _putconn(self, original: Any) -> Any:
        release = self._hooks.releases(original, unwrapped, at=1, refuses=True)

        @functools.wraps(original)
        def putconn(pool: Any, *args: Any, **kwargs: Any) -> Any:
            if not args and "conn" in kwargs:
                args = (kwargs.pop("conn"),)  # where it is looked for, whatever else has a keyword
            return release(pool, *args, **kwargs)

        return putconn

    def _closeall(self, original: Any) -> Any:
        @functools.wraps(original)
        def closeall(pool: Any, *args: Any, **kwargs: Any) -> Any:
            held = self._leaving(pool) if self._patches.active else []
            try:
                result = original(pool, *args, **kwargs)
            except BaseException:
                self._closed(held, self._registry.transactions.staying)
                raise
            self._closed(held, self._registry.over)  # what is out was closed too: nothing is left to release
            return result

        return closeall

    def _leaving(self, pool: Any) -> list[Hold]:
        """What the pool has handed out, and is about to close."""
        held: list[Hold] = []
        try:
            for given in list(pool._used.values()):
                connection = unwrapped(given)
                hold = self._registry.hold_of(connection)
                if hold is not None and hold.source == _SOURCE:
                    self._registry.transactions.leaving(hold, connection)
                    held.append(hold)
        except Exception:
            failed("psycopg2_pool closeall")
        return held

    def _closed(self, held: list[Hold], end: Callable[[Hold], None]) -> None:
        try:
            for hold in held:
                end(hold)
        except Exception:
            failed("psycopg2_pool closeall")
