"""aiopg: pools, direct connections, and the driver calls of all its connections (L2).

A pool refers to what it has handed out until it gets it back: one that is dropped is never collected. And
each cursor and its transaction refer to each other, so that also a direct connection is collected late, when
the garbage collector finds its cursors. Reference counts tell both. A connection of a pool that is only
closed keeps its slot. Below are asynchronous connections of psycopg2, which are no holds themselves.
"""

from __future__ import annotations

import functools
import itertools
import weakref
from typing import Any, Final

from otel_connleak import references
from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers import unwrapped
from otel_connleak.drivers.aiopg import DRIVER
from otel_connleak.finalizers import finalizes
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_POOL: Final = "aiopg.pool"
_DIRECT: Final = "aiopg"
_HINT: Final = "use `async with pool.acquire() as connection:` so that it is returned on every path"
_DIRECT_HINT: Final = "use `async with aiopg.connect(…) as connection:` so that it is closed on every path"
_SOMEBODY: Final = -1
"""Says, in place of a number of references, that somebody has the connection."""


class AiopgAdapter:
    """Hooks acquire and release, connect and close, the driver calls, and the finalizer."""

    module = "aiopg"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)
        self._numbers = itertools.count()
        self._cursors: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook aiopg. Raises `AttributeError` if it has changed."""
        from aiopg.connection import Connection, Cursor
        from aiopg.pool import Pool as AiopgPool

        self._registry = registry
        pooled = Hooks(_POOL, registry, self._patches)
        direct = Hooks(_DIRECT, registry, self._patches)
        replace = self._patches.replace
        replace(AiopgPool, "_acquire", lambda it: pooled.acquires_async(it, self._track, unwrapped))
        replace(AiopgPool, "_fill_free_pool", pooled.connects_async)
        replace(AiopgPool, "release", lambda it: pooled.releases(it, unwrapped, at=1, refuses=True))
        replace(AiopgPool, "terminate", self._terminate)
        replace(Connection, "_connect", lambda it: direct.acquires_async(it, self._track_direct, direct=True))
        replace(Connection, "close", direct.releases)
        replace(Connection, "__del__", self._finalize)
        replace(Connection, "notifies", self._notifies)
        replace(Cursor, "__init__", self._make_cursor)
        for name, takes_it in (("execute", True), ("callproc", False)):
            replace(Cursor, name, functools.partial(self._call, direct, statement=takes_it))

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()
        self._cursors.clear()

    # --- what is held --------------------------------------------------------------------------------------

    def _track(self, connection: Any, pool: Any = None) -> Tracked:
        """The connection's first acquire: it belongs to this pool, or to none, for its whole life."""
        facts = DRIVER.facts(connection)
        record = self._pools.of(pool, facts) if pool is not None else None
        tracked = self._registry.track(connection, facts, DRIVER.transaction, record)
        tracked.keeps, tracked.hint = self._kept_by_cursors, _DIRECT_HINT
        return tracked

    def _track_direct(self, connection: Any, _same: Any) -> Tracked:
        return self._track(connection)

    def _kept_by_cursors(self, connection: Any) -> int:
        """The references of cursors that nobody has any more, and that were not collected yet."""
        return sum(
            _is_of(reference, connection) and _is_left(reference) for reference in self._cursors.valuerefs()
        )

    # --- hooks ---------------------------------------------------------------------------------------------

    def _call(self, hooks: Hooks, original: Any, *, statement: bool) -> Any:
        return hooks.calls_async(original, DRIVER.transaction, _connection_of, statement=statement)

    def _terminate(self, original: Any) -> Any:
        @functools.wraps(original)
        def terminate(pool: Any) -> Any:
            held: list[Hold | None] = []
            if self._patches.active:
                try:
                    used = [unwrapped(connection) for connection in pool._used]
                    held = [self._registry.release(_POOL, connection) for connection in used]
                except Exception:
                    failed("aiopg terminate")
            try:
                return original(pool)
            finally:
                for hold in held:
                    if hold is not None:
                        self._released(hold)

        return terminate

    def _released(self, hold: Hold) -> None:
        try:
            self._registry.released(hold)
        except Exception:
            failed("aiopg terminate")

    def _finalize(self, original: Any) -> Any:
        sources = _POOL, _DIRECT
        return finalizes(
            original, self._registry, self._patches, sources, is_closed=lambda it: bool(it.closed)
        )

    def _notifies(self, original: Any) -> Any:
        """Who asks for the queue of notifications waits for them: its connection is idle by design."""

        def notifies(connection: Any) -> Any:
            if self._patches.active:
                try:
                    hold = self._registry.hold_of(connection)
                    if hold is not None:
                        hold.listens = True
                except Exception:
                    failed("aiopg notifies")
            return original.fget(connection)

        return property(notifies, doc=original.__doc__)

    def _make_cursor(self, original: Any) -> Any:
        @functools.wraps(original)
        def __init__(cursor: Any, *args: Any, **kwargs: Any) -> None:
            original(cursor, *args, **kwargs)
            if self._patches.active:
                try:
                    self._cursors[next(self._numbers)] = cursor
                except Exception:
                    failed("aiopg cursor")

        return __init__


def _connection_of(cursor: Any) -> Any:
    return cursor._conn


def _is_of(reference: weakref.ref[Any], connection: Any) -> bool:
    cursor = reference()
    return cursor is not None and cursor._conn is connection


def _is_left(reference: weakref.ref[Any]) -> bool:
    """Whether only its transaction refers to a cursor, and only it to that."""
    if references.count(reference) != 1:
        return False
    return references.count(lambda: getattr(reference(), "_transaction", None)) == 1


def _record(reference: weakref.ref[Any], facts: Facts) -> Pool:
    def figures() -> tuple[int | None, int | None]:
        live = reference()
        return (None, None) if live is None else (live.maxsize, len(live._cond._waiters))

    def keeps(connection: Any) -> int:
        live = reference()
        if live is None:
            return 0
        # What else stands there, a proxy of an instrumentation, may be the application's too.
        others = [other for other in live._used.copy() if unwrapped(other) is connection]
        return _SOMEBODY if any(other is not connection for other in others) else len(others)

    return Pool(name_of(facts), figures, _HINT, keeps, reference)
