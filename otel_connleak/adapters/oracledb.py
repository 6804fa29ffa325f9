"""oracledb: direct connections and those of its pools, sync and async, and their calls (L2).

A connection of a pool is a new object with each acquire, as a direct one is; only what it stands for is used
again. So both begin where the object is made, or where it is awaited, and end with its ``close``.
"""

from __future__ import annotations

import functools
import types
import weakref
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers.oracledb import DRIVER
from otel_connleak.finalizers import finalizes
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_SOURCE: Final = "oracledb"
_HINT: Final = "use `with pool.acquire() as connection:` so that it is returned on every path"
_ASYNC_HINT: Final = "use `async with pool.acquire() as connection:` so that it is returned on every path"

_CALLS: Final = (
    "commit rollback ping changepassword createlob direct_path_load gettype run_pipeline "
    "subscribe unsubscribe tpc_begin tpc_prepare tpc_commit tpc_rollback tpc_end tpc_forget tpc_recover"
).split()
"""Methods of connections that call the server; not each version and class has them all."""
_CALLS_OF_CURSORS: Final = "callfunc callproc fetchall fetchmany fetchone scroll".split()
_STATEMENTS: Final = "execute executemany parse".split()
"""Methods of cursors whose first argument is a statement."""


class OracledbAdapter:
    """Hooks the making and the closing of connections, what drops them, and their calls."""

    module = "oracledb"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook oracledb. Raises `AttributeError` if it has changed."""
        from oracledb import (
            AsyncConnection,
            AsyncConnectionPool,
            AsyncCursor,
            Connection,
            ConnectionPool,
            Cursor,
        )

        self._registry = registry
        self._hooks = hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(Connection, "__init__", self._init)
        replace(Connection, "close", hooks.releases)
        replace(Connection, "__del__", self._finalize)
        replace(ConnectionPool, "drop", functools.partial(hooks.releases, at=1, refuses=True))
        replace(AsyncConnection, "__await__", self._await)
        replace(AsyncConnection, "close", hooks.releases_async)
        replace(AsyncConnection, "terminate", hooks.releases)
        replace(AsyncConnectionPool, "drop", functools.partial(hooks.releases_async, at=1, refuses=True))
        self._hook_calls(Connection, Cursor, hooks.calls)
        self._hook_calls(AsyncConnection, AsyncCursor, hooks.calls_async)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _hook_calls(self, connections: Any, cursors: Any, calls: Any) -> None:
        status = DRIVER.transaction
        for name in _CALLS:
            self._hook(connections, name, functools.partial(calls, transaction=status))
        for name in (*_CALLS_OF_CURSORS, *_STATEMENTS):
            of_cursor = functools.partial(calls, transaction=status, subject=_connection_of)
            self._hook(cursors, name, functools.partial(of_cursor, statement=name in _STATEMENTS))
        frame = functools.partial(calls, transaction=status, statement=True)
        self._hook(connections, "fetch_df_all", frame)

    def _hook(self, owner: Any, name: str, make: Any) -> None:
        if name in vars(owner):
            self._patches.replace(owner, name, make)

    def _track(self, connection: Any, *_: Any) -> Tracked:
        facts = DRIVER.facts(connection)
        pool = _pool_of(connection)
        record = self._pools.of(pool, facts) if pool is not None else None
        return self._registry.track(connection, facts, DRIVER.transaction, record)

    def _init(self, original: Any) -> Any:
        def made(connection: Any, *args: Any, **kwargs: Any) -> Any:
            original(connection, *args, **kwargs)
            return connection

        direct = self._hooks.acquires(made, self._track, direct=True)
        pooled = self._hooks.acquires(made, self._track)

        @functools.wraps(original)
        def __init__(connection: Any, *args: Any, **kwargs: Any) -> None:
            (direct if kwargs.get("pool") is None else pooled)(connection, *args, **kwargs)

        return __init__

    def _await(self, original: Any) -> Any:
        direct = self._hooks.acquires_async(_go_on, self._track, direct=True)
        pooled = self._hooks.acquires_async(_go_on, self._track)

        @functools.wraps(original)
        def __await__(connection: Any) -> Any:
            connecting = original(connection)  # it raises here if it has been awaited before
            return (direct if _pool_of(connection) is None else pooled)(connecting).__await__()

        return __await__

    def _finalize(self, original: Any) -> Any:
        # It closes, which gives it back to its pool.
        return finalizes(original, self._registry, self._patches, (_SOURCE,))


async def _go_on(connecting: Any) -> Any:
    """Awaits what ``__await__`` gave."""
    return await _awaitable(connecting)


@types.coroutine
def _awaitable(connecting: Any) -> Any:
    return (yield from connecting)


def _connection_of(cursor: Any) -> Any:
    return getattr(cursor, "_connection", None)


def _pool_of(connection: Any) -> Any:
    return getattr(connection, "_pool", None)


def _record(reference: weakref.ref[Any], facts: Facts) -> Pool:
    """The record of a pool: its alias, if it was given one, is its name."""

    def figures() -> tuple[int | None, int | None]:
        pool = reference()
        return (None if pool is None else pool.max), None

    pool = reference()
    alias = getattr(pool, "_cache_name", None)
    hint = _ASYNC_HINT if type(pool).__name__.startswith("Async") else _HINT
    return Pool(alias or name_of(facts), figures, hint)
