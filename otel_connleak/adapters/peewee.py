"""peewee: the connection of each thread, with and without the pool of ``playhouse.pool`` (L2).

The application gets no connection in its hands. ``connect()``, ``with`` and the first query open one for the
calling thread, in whose state it stays until ``close()``: whoever needed it first is named, but may leave it
to others, and the only leak is a thread that ends without ``close()``. A pool refers to it for ever then, and
its slot is lost; a direct connection is collected. Where the application has given a database another state
(one in a context variable, for instance), a connection is judged as every other one.

Not seen: the asyncio databases of ``playhouse.pwasyncio``, whose connections come from pools that have
adapters of their own, and are given back at the end of each task.
"""

from __future__ import annotations

import functools
import sys
import threading
import weakref
from types import FrameType
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers import driver_of, unwrapped
from otel_connleak.drivers.sqlite3 import own_references
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_SOURCE: Final = "peewee"
_HINT: Final = "use `with database.connection_context():` so that it is returned on every path"


class PeeweeAdapter:
    """Hooks ``connect``, which all ways to a connection go through, and what closes or forgets it.

    Only in peewee itself: the pool's module may be the one that imports it, and is not there yet.
    """

    module = "peewee"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook the base classes. Raises `AttributeError` if they have changed."""
        from peewee import Database

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(Database, "connect", self._connect)
        replace(Database, "close", lambda close: hooks.releases(close, _closed))
        # With it ``close_all`` and ``close_stale`` of a pool close what other threads have.
        replace(Database, "_close", lambda close: hooks.releases(close, unwrapped, at=1))
        if "dispose" in vars(Database):  # peewee 4: forgets the connection without closing it
            replace(Database, "dispose", lambda dispose: hooks.releases(dispose, _connection))

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        def connect(database: Any, *args: Any, **kwargs: Any) -> Any:
            if not self._patches.active or inside.get():
                return original(database, *args, **kwargs)
            token = inside.set(True)
            try:
                opened = original(database, *args, **kwargs)
            finally:
                inside.reset(token)
            if opened:  # and was not open before
                self._acquired(database, sys._getframe(1))
            return opened

        return connect

    def _acquired(self, database: Any, frame: FrameType) -> None:
        try:
            connection = _connection(database)
            # The connections of some drivers cannot be referred to weakly, and there is no other object.
            if type(connection).__weakrefoffset__:
                self._registry.acquire(_SOURCE, connection, frame, self._track, database)
        except Exception:
            failed("peewee connect")

    def _track(self, connection: Any, database: Any) -> Tracked:
        driver = driver_of(connection)
        facts = driver.facts(connection)
        pool = self._pools.of(database, facts) if hasattr(database, "_in_use") else None
        of_thread = isinstance(database._state, threading.local)
        tracked = self._registry.track(connection, facts, driver.transaction, pool, by_design=of_thread)
        if facts.system == "sqlite":
            tracked.keeps = own_references
        return tracked


def _connection(database: Any) -> Any:
    """The driver's connection that is open here and now; None if there is none."""
    return unwrapped(database._state.conn)


def _closed(database: Any) -> Any:
    """The connection that ``close`` closes; None where it refuses, because a transaction is open."""
    return None if database.in_transaction() else _connection(database)


def _record(reference: weakref.ref[Any], facts: Facts) -> Pool:
    def figures() -> tuple[int | None, int | None]:
        live = reference()
        if live is None:
            return None, None
        available = getattr(live, "_pool_available", None)  # a condition, since peewee 4
        return live._max_connections or None, None if available is None else len(available._waiters)

    def in_use() -> Any:
        live = reference()
        return None if live is None else live._in_use

    def keeps(connection: Any) -> int:
        live = reference()
        return int(live is not None and live.conn_key(connection) in live._in_use)

    return Pool(name_of(facts), figures, _HINT, keeps, in_use)
