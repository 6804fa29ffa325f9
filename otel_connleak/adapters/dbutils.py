"""DBUtils: ``PooledDB``, and the ``PooledDB`` of ``simple_pooled_db`` where it hands out for one user (L2).

The application gets a proxy. One that is dropped gives its connection back by itself, and says nothing: that
is reported, unless a ``del`` statement did it, which DBUtils documents as a way to give back. What is tracked
is the driver's connection below, so that its calls count; DBUtils replaces a broken one, and the hold goes on
with the new one. Where several proxies stand for one connection, each is a hold, and is tracked itself.

No hold: the connections of ``PersistentDB``, which are their thread's for its whole life and are closed with
it; those of a ``simple_pooled_db`` over a driver whose connections threads may share, which never leave the
pool; ``steady_db.connect``, ``PooledPg`` and ``PersistentPg``.
"""

from __future__ import annotations

import dis
import functools
import sys
import weakref
from types import FrameType
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers import UNKNOWN, Driver, driver_of, unwrapped
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_SOURCE: Final = "dbutils"
_HINT: Final = "use `with pool.connection() as connection:` so that it is returned on every path"
_SIMPLE_HINT: Final = (
    "use `with contextlib.closing(pool.connection()) as connection:` so that it is returned on every path"
)


class DBUtilsAdapter:
    """Hooks what hands a proxy out, the proxies' ``close`` and finalizer, and what connects below them."""

    module = "dbutils"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook the pools. Raises `AttributeError` if they have changed."""
        from dbutils import pooled_db, simple_pooled_db, steady_db

        self._registry = registry
        self._shared_proxy = pooled_db.PooledSharedDBConnection
        self._layers = (
            pooled_db.PooledDedicatedDBConnection,
            pooled_db.PooledSharedDBConnection,
            simple_pooled_db.PooledDBConnection,
            steady_db.SteadyDBConnection,
        )
        hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(pooled_db.PooledDB, "__init__", hooks.connects)
        replace(pooled_db.PooledDB, "connection", self._connection)
        replace(simple_pooled_db.PooledDB, "__init__", hooks.connects)
        # Its pools call methods that they have bound when they were made, perhaps before they were hooked.
        replace(simple_pooled_db.PooledDBConnection, "__init__", self._make_simple)
        for proxy in self._layers[:3]:
            replace(proxy, "close", lambda close: hooks.releases(close, self._held, refuses=True))
            replace(proxy, "__del__", self._finalize)
        # The creator may be a function of the application's, called whenever DBUtils finds it necessary.
        replace(steady_db.SteadyDBConnection, "_create", hooks.connects)
        replace(steady_db.SteadyDBConnection, "_store", self._store)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    # --- what is held --------------------------------------------------------------------------------------

    def _below(self, layer: Any) -> Any:
        """The driver's connection below a proxy, now; None below one that was closed."""
        while isinstance(layer, self._layers):
            layer = vars(layer).get("_con")
        return unwrapped(layer)

    def _held(self, proxy: Any) -> Any:
        """What is tracked of a proxy; None if that was closed."""
        connection = self._below(proxy)
        if connection is None:
            return None
        # Some drivers' connections cannot be weakly referenced.
        alone = not isinstance(proxy, self._shared_proxy) and type(connection).__weakrefoffset__
        return connection if alone else proxy

    def _track(self, held: Any, pool: Any) -> Tracked:
        connection = self._below(held)
        driver = driver_of(connection)
        facts = _facts(driver, connection)
        record = self._pools.of(pool, facts)
        return self._registry.track(held, facts, lambda it: driver.transaction(self._below(it)), record)

    def _acquired(self, proxy: Any, pool: Any, frame: FrameType) -> None:
        try:
            held = self._held(proxy)
            hold = self._registry.acquire(_SOURCE, held, frame, self._track, pool)
            if held is proxy or (driver_of(held) is UNKNOWN and not hasattr(type(held), "_self_is_traced")):
                # Calls are not seen: for all that is known it is in use, and not overdue.
                hold.long_lived = True
        except Exception:
            failed("dbutils connection")

    # --- hooks ---------------------------------------------------------------------------------------------

    def _connection(self, original: Any) -> Any:
        @functools.wraps(original)
        def connection(pool: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active or inside.get():
                return original(pool, *args, **kwargs)
            token = inside.set(True)
            try:
                proxy = original(pool, *args, **kwargs)
            finally:
                inside.reset(token)
            self._acquired(proxy, pool, sys._getframe(1))
            return proxy

        return connection

    def _make_simple(self, original: Any) -> Any:
        @functools.wraps(original)
        def __init__(proxy: Any, pool: Any, con: Any) -> None:
            original(proxy, pool, con)
            # Without a queue several proxies stand for one connection, which stays in the pool's list.
            if self._patches.active and not inside.get() and "_queue" in vars(pool):
                self._acquired(proxy, pool, sys._getframe(1))

        return __init__

    def _finalize(self, original: Any) -> Any:
        @functools.wraps(original)
        def __del__(proxy: Any) -> None:
            if self._patches.active:
                try:
                    held = self._held(proxy)
                    hold = self._registry.hold_of(held) if held is not None else None
                    if hold is not None and hold.source == _SOURCE and not _deletes(sys._getframe().f_back):
                        self._registry.reclaim(hold)
                except Exception:
                    failed("dbutils __del__")
            original(proxy)  # closes it: a hold that is still open is released then

        return __del__

    def _store(self, original: Any) -> Any:
        """DBUtils has connected: for the first time, or in place of a connection that was broken."""

        @functools.wraps(original)
        def _store(steady: Any, con: Any) -> Any:
            if self._patches.active:
                try:
                    hold = self._registry.hold_of(self._below(steady))
                    if hold is not None and hold.source == _SOURCE:
                        connection = unwrapped(con)
                        driver = driver_of(connection)
                        facts = _facts(driver, connection)
                        tracked = self._registry.track(connection, facts, driver.transaction, hold.pool)
                        # Before the old one goes: it would be taken for one that was dropped.
                        self._registry.replaced(hold, tracked)
                except Exception:
                    failed("dbutils _store")
            return original(steady, con)

        return _store


def _record(reference: weakref.ref[Any], facts: Facts) -> Pool:
    pool = reference()
    is_simple = "_queue" in vars(pool)

    def figures() -> tuple[int | None, int | None]:
        live = reference()
        if live is None:
            return None, None
        if is_simple:
            return live._queue.maxsize or None, len(live._queue.not_empty._waiters)
        # Holds that share a connection are not to be compared with a number of connections.
        maximum = None if live._maxshared else live._maxconnections or None
        return maximum, len(live._lock._waiters)

    return Pool(name_of(facts), figures, _SIMPLE_HINT if is_simple else _HINT)


def _facts(driver: Driver, connection: Any) -> Facts:
    """What a driver tells of a connection; nothing if that is broken, or was made in a way it cannot read."""
    try:
        return driver.facts(connection)
    except Exception:
        return Facts()


def _deletes(frame: FrameType | None) -> bool:
    """Whether a ``del`` statement is what runs in a frame."""
    if frame is None:
        return False
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith("DELETE_")
