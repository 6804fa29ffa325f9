"""SQLAlchemy 2: what an engine, a session or an async engine takes from its pool (L2).

The acquire is `Pool.connect`, patched, and not the event ``checkout``. That event fires before the checkout
is over: a listener of the application may still refuse the connection or exchange it, and then it fires
again. `Pool.connect` also is the place where all that connects on the way is the pool's own doing
(`inside`). The releases are public events, listened to for the class `Pool`, which reaches engines made
earlier and pools made later:

- ``reset``: the application gives back, before the rollback; or its connection was dropped, and SQLAlchemy
  takes it back. Not when the connection has been invalidated;
- ``close``: the pool closes the driver's connection, also one that is out: invalidated, or thrown out;
- ``checkin``: all else that comes back;
- ``detach``: it leaves the pool and is held until ``reset``, which comes without a record then;
- ``invalidate``: it is about to be closed, and its transaction is meant to be lost.

An exception in one of these would invalidate the connection or reach the application: there is none. Modules
of their own hook transactions, results, and the calls of drivers that have no hooks.
"""

from __future__ import annotations

import functools
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final

import wrapt

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers import UNKNOWN, Driver, driver_of, unwrapped
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.nesting import inside
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry
from otel_connleak.sqlalchemy_calls import DriverCalls
from otel_connleak.sqlalchemy_streams import StreamHooks
from otel_connleak.sqlalchemy_transactions import TransactionHooks

_SOURCE: Final = "sqlalchemy"
_HINT: Final = (
    "use `with engine.connect() as connection:` or `with Session(engine) as session:` "
    "so that it is returned on every path"
)
_ASYNC_HINT: Final = (
    "use `async with engine.connect() as connection:` or `async with AsyncSession(engine) as session:` "
    "so that it is returned on every path"
)
_TRANSACTION_HINT: Final = (
    "use `with engine.begin() as connection:` or `with session.begin():`, or call `commit()` on every path"
)
_ASYNC_TRANSACTION_HINT: Final = (
    "use `async with engine.begin() as connection:` or `async with session.begin():`, "
    "or `await` their `commit()` on every path"
)
_SYSTEMS: Final = {"mssql": "microsoft.sql_server", "oracle": "oracle.db"}
"""OpenTelemetry's name of a database system, where it is not SQLAlchemy's name of the dialect."""


class SQLAlchemyAdapter:
    """Hooks the checkout and listens to what ends it; where no driver's adapter sees the calls, these too."""

    module = "sqlalchemy"
    # Not "sqlalchemy.pool", which is imported in the midst of the package: whoever imports any part of it
    # imports the package first, and can use nothing before that is complete.

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record_of)
        self._listeners: list[tuple[str, Callable[..., None]]] = []
        self._itself: set[type] = set()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook it. Raises `AttributeError` if it has changed."""
        from sqlalchemy import event
        from sqlalchemy.engine import AdaptedConnection
        from sqlalchemy.pool import ConnectionPoolEntry, Pool, SingletonThreadPool

        self._registry = registry
        self._adapted, self._record = AdaptedConnection, ConnectionPoolEntry
        self._calls = DriverCalls(_SOURCE, registry, self._patches, self._held_of)
        for pool in (Pool, SingletonThreadPool):  # the one that has a ``connect`` of its own
            self._patches.replace(pool, "connect", self._connect)
        self._hook_transactions()
        listeners: dict[str, Callable[..., None]] = {
            "reset": self._reset,
            "close": self._returned,
            "checkin": self._returned,
            "detach": self._detached,
            "invalidate": self._invalidated,
        }
        for name, listener in listeners.items():
            event.listen(Pool, name, listener)
            self._listeners.append((name, listener))

    def _hook_transactions(self) -> None:
        transactions = TransactionHooks(self._registry, self._patches, self._hold_of)
        self._transactions = transactions
        transactions.install()
        StreamHooks(self._registry, self._patches, self._hold_of).install()

        def later(hook: Callable[[Any], None], module: Any) -> None:
            if self._patches.active and self._transactions is transactions:
                try:
                    hook(module)
                except Exception:  # the application imports it: it must be able to
                    failed(f"hooking {module.__name__}")

        # These parts of SQLAlchemy are hooked when the application needs them, and not loaded for us.
        for name, hook in (
            ("sqlalchemy.orm.session", transactions.install_sessions),
            ("sqlalchemy.ext.asyncio", transactions.install_async),
        ):
            wrapt.register_post_import_hook(functools.partial(later, hook), name)

    def uninstall(self) -> None:
        """Give back the identical functions and take the listeners out."""
        self._patches.undo()
        while self._listeners:
            from sqlalchemy import event
            from sqlalchemy.pool import Pool

            name, listener = self._listeners.pop()
            if event.contains(Pool, name, listener):  # tests of SQLAlchemy take all of them out
                event.remove(Pool, name, listener)
        self._pools.clear()
        self._itself.clear()

    def _held(self, dbapi_connection: Any, record: Any) -> Any:
        """What a hold is of: the driver's own connection, by which the driver's hooks find the hold too.

        Where that cannot be weakly referenced (a plain `sqlite3.Connection`): the pool's record of it.
        """
        kind = type(dbapi_connection)
        if kind in self._itself:
            return dbapi_connection
        connection = unwrapped(dbapi_connection)
        if isinstance(connection, self._adapted):
            connection = connection.driver_connection
        if not type(connection).__weakrefoffset__:
            return record
        if connection is dbapi_connection:
            self._itself.add(kind)
        return connection

    def _held_of(self, connection: Any) -> Any:
        """What the hold of a `sqlalchemy.Connection` is of, or None: it may be invalidated, or closed."""
        fairy = connection._dbapi_connection
        return None if fairy is None else self._held(fairy.dbapi_connection, fairy._connection_record)

    def _hold_of(self, connection: Any) -> Hold | None:
        held = self._held_of(connection)
        return None if held is None else self._registry.hold_of(held)

    # --- acquire -------------------------------------------------------------------------------------------

    def _connect(self, original: Any) -> Any:
        patches, held_of, acquire, track = self._patches, self._held, self._registry.acquire, self._track

        @functools.wraps(original)
        def connect(pool: Any) -> Any:
            if not patches.active or inside.get():
                return original(pool)
            token = inside.set(True)
            try:
                fairy = original(pool)
            finally:
                inside.reset(token)
            try:
                # A pool of one connection a thread gives it again to who has it already, and counts that.
                if fairy._counter == 1:
                    held = held_of(fairy.dbapi_connection, fairy._connection_record)
                    hold = acquire(_SOURCE, held, sys._getframe(1), track, pool)
                    if self._calls.counts and not self._sees_calls(held):
                        # Nor do we see all of them, such as fetching: nobody can say that it has been idle.
                        hold.long_lived = True
            except Exception:
                failed("sqlalchemy connect")
            return fairy

        return connect

    def _sees_calls(self, held: Any) -> bool:
        """Whether hooks of its driver, or our proxies (`trace_dbapi`), tell of the calls of a connection."""
        driver = driver_of(held)
        return driver.sees_calls(held) if driver is not UNKNOWN else hasattr(type(held), "_self_is_traced")

    def _track(self, held: Any, pool: Any) -> Tracked:
        connection = held.driver_connection if isinstance(held, self._record) else held
        facts = _facts(driver_of(connection), connection, pool)
        if not self._sees_calls(held):
            self._calls.start()
        tracked = self._registry.track(held, facts, driver_of(held).transaction, self._pools.of(pool, facts))
        tracked.transaction_hint = _ASYNC_TRANSACTION_HINT if _is_async(pool) else _TRANSACTION_HINT
        return tracked

    # --- release: listeners --------------------------------------------------------------------------------

    def _reset(self, dbapi_connection: Any, connection_record: Any, reset_state: Any) -> None:
        try:
            held = self._held(dbapi_connection, connection_record)
            fairy = connection_record.fairy_ref if connection_record is not None else None
            if fairy is None or fairy() is not None:
                self._end(held)
            elif (hold := self._registry.hold_of(held)) is not None and hold.source == _SOURCE:
                self._registry.reclaim(hold)  # whoever had it is gone
        except Exception:
            failed("sqlalchemy reset")

    def _returned(self, dbapi_connection: Any, connection_record: Any) -> None:
        try:
            if dbapi_connection is not None:  # else it was invalidated before
                self._end(self._held(dbapi_connection, connection_record))
        except Exception:
            failed("sqlalchemy checkin")

    def _detached(self, dbapi_connection: Any, connection_record: Any) -> None:
        try:
            held = self._held(dbapi_connection, connection_record)
            if held is not connection_record:
                self._registry.leave_pool(held)
            elif not connection_record.in_use:
                self._end(held)  # nothing is left by which it could be known
        except Exception:
            failed("sqlalchemy detach")

    def _invalidated(self, dbapi_connection: Any, connection_record: Any, _exception: Any) -> None:
        try:
            held = self._held(dbapi_connection, connection_record)
            self._transactions.thrown_away(self._registry.hold_of(held))
        except Exception:
            failed("sqlalchemy invalidate")

    def _end(self, held: Any) -> None:
        hold = self._registry.release(_SOURCE, held)
        if hold is not None:
            self._registry.released(hold)


def _facts(driver: Driver, connection: Any, pool: Any) -> Facts:
    """What the driver tells, or else the dialect."""
    try:
        if driver is not UNKNOWN:
            return driver.facts(connection)
    except Exception:  # a plain connection of sqlite3 does not say what it was opened with
        pass
    name = getattr(pool._dialect, "name", None) or Facts().system
    return Facts(_SYSTEMS.get(name, name))


def _is_async(pool: Any) -> bool:
    return bool(getattr(pool, "_is_asyncio", False))


def _record_of(reference: weakref.ref[Any], facts: Facts) -> Pool:
    """Our record of a pool, which is there to be asked now."""
    pool = reference()
    name = getattr(pool, "logging_name", None) or name_of(facts)
    hint = _ASYNC_HINT if _is_async(pool) else _HINT
    return Pool(name, functools.partial(_figures, reference), hint, library=reference)


def _figures(reference: weakref.ref[Any]) -> tuple[int | None, int | None]:
    """The size of a pool that has one, and takes a queue for it. How many wait nobody knows."""
    pool: Any = reference()
    overflow = getattr(pool, "_max_overflow", -1)
    return (None if overflow < 0 else pool.size() + overflow), None
