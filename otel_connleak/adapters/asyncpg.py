"""asyncpg: pools, direct connections, and the driver calls of all its connections (L2).

What a pool hands out is a proxy, a new one each time, which cannot be weakly referenced; so the connection
behind it is tracked. The pool refers to both until the release: a dropped proxy is never collected, its slot
is lost, and only reference counts tell it.

A release is `Connection._on_release`, which `Pool.release` calls as soon as it has accepted the proxy: the
reset that follows is the pool's. Everything else that ends a connection goes through `Connection._cleanup`:
``close``, ``terminate``, the pool's own ``terminate``, the end of the session by the server.
"""

from __future__ import annotations

import functools
import inspect
import operator
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, Final

from otel_connleak import references
from otel_connleak.asyncpg_calls import AsyncpgCalls
from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers.asyncpg import DRIVER
from otel_connleak.failures import error_now, exception_in_flight
from otel_connleak.finalizers import finalizes
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.libraries import EVENT_LOOPS, GREENLET_BRIDGES
from otel_connleak.nesting import connects_for_a_pool, inside
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools, name_of
from otel_connleak.registry import Registry

_SOURCE: Final = "asyncpg"
_HINT: Final = "use `async with pool.acquire() as connection:` so that it is returned on every path"
_DIRECT_HINT: Final = "use `try … finally: await connection.close()` so that it is closed on every path"
_SOMEBODY: Final = -1
"""Says, in place of a number of references, that somebody has the connection."""


class AsyncpgAdapter:
    """Hooks the pool's acquire, connect, what ends a connection, the driver calls, and the finalizer."""

    module = "asyncpg"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_record, _reference)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook asyncpg. Raises `AttributeError` if it has changed."""
        from asyncpg import connect_utils
        from asyncpg.connection import Connection
        from asyncpg.pool import Pool as AsyncpgPool

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(AsyncpgPool, "_acquire", lambda it: hooks.acquires_async(it, self._track, _behind))
        replace(AsyncpgPool, "_get_new_connection", hooks.connects_async)
        # Not ``connect``: who has imported that by its name, as pools that exist do, calls this all the same.
        replace(connect_utils, "_connect", self._connect)
        replace(AsyncpgPool, "release", self._release)
        replace(Connection, "_on_release", lambda it: hooks.releases(it, refuses=True))
        replace(Connection, "close", hooks.releases_async)
        replace(Connection, "_cleanup", hooks.releases)
        replace(Connection, "__del__", self._finalize)
        replace(Connection, "add_listener", self._listens)
        replace(Connection, "remove_listener", self._listens)
        AsyncpgCalls(_SOURCE, registry, self._patches).hook()

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _track(self, connection: Any, pool: Any = None) -> Tracked:
        """The connection's first acquire: it belongs to this pool, or to none, for its whole life."""
        facts = DRIVER.facts(connection)
        record = self._pools.of(pool, facts) if pool is not None else None
        tracked = self._registry.track(connection, facts, DRIVER.transaction, record)
        tracked.keeps, tracked.hint = _kept_by_transaction, _DIRECT_HINT
        return tracked

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        async def _connect(*args: Any, **kwargs: Any) -> Any:
            within = inside.get()
            # The transport keeps the context in which it is made for ever, and the application's listeners
            # are called in it: what they acquire is a hold.
            token = inside.set(False)
            try:
                connection = await original(*args, **kwargs)
            finally:
                inside.reset(token)
            if self._patches.active and not within:
                try:
                    frame = sys._getframe(1)
                    if not connects_for_a_pool(frame) and not _connects_for_sqlalchemy(frame):
                        self._registry.acquire(_SOURCE, connection, frame, self._track)
                except Exception:
                    failed("asyncpg connect")
            return connection

        return _connect

    def _release(self, original: Any) -> Any:
        """It may run in a task of its own, where there is no exception; but it is called where one is."""

        @functools.wraps(original)
        def release(pool: Any, *args: Any, **kwargs: Any) -> Any:
            coroutine = original(pool, *args, **kwargs)
            error = error_now() if self._patches.active else 0
            return _because_of(error, coroutine) if error else coroutine

        return inspect.markcoroutinefunction(release)

    def _finalize(self, original: Any) -> Any:
        return finalizes(
            original, self._registry, self._patches, (_SOURCE,), is_closed=operator.methodcaller("is_closed")
        )

    def _listens(self, original: Any) -> Any:
        @functools.wraps(original)
        async def listen(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(connection, *args, **kwargs)
            finally:
                if self._patches.active:
                    try:
                        hold = self._registry.hold_of(connection)
                        if hold is not None:
                            hold.listens = bool(connection._listeners)
                    except Exception:
                        failed("asyncpg listener")

        return listen


async def _because_of(error: int, coroutine: Any) -> Any:
    token = exception_in_flight.set(error)
    try:
        return await coroutine
    finally:
        exception_in_flight.reset(token)


def _behind(proxy: Any) -> Any:
    return proxy._con


def _reference(pool: Any) -> Callable[[], Any]:
    """A reference that does not keep the pool, which cannot be weakly referenced: one of its parts can."""
    part = weakref.ref(pool._holders[0])

    def reference() -> Any:
        holder = part()
        return None if holder is None else holder._pool

    return reference


def _record(reference: Callable[[], Any], facts: Facts) -> Pool:
    def figures() -> tuple[int | None, int | None]:
        live = reference()
        return (None, None) if live is None else (live.get_max_size(), len(live._queue._getters))

    def library() -> Any:
        # A proxy that was released refers to its holder still, and that to what is held now.
        live = reference()
        return None if live is None else (live, *live._holders)

    return Pool(name_of(facts), figures, _HINT, _kept, library)


def _kept(connection: Any) -> int:
    """The references of a pool to what it has handed out; `_SOMEBODY` if there are others to the proxy.

    The application has the proxy, and perhaps statements, transactions and cursors, which refer to the
    connection itself.
    """
    proxy = connection._proxy
    if proxy is None or connection._listeners:  # released just now; a listener is given the proxy each time
        return _SOMEBODY
    holder = proxy._holder
    kept_proxy = (holder._proxy is proxy) + (connection._proxy is proxy)
    kept = (holder._con is connection) + (proxy._con is connection)
    del proxy
    return kept if references.count(lambda: connection._proxy) == kept_proxy else _SOMEBODY


def _kept_by_transaction(connection: Any) -> int:
    """An open transaction and its connection refer to each other; whether nobody has the transaction."""
    return int(references.count(lambda: connection._top_xact) == 1)


def _connects_for_sqlalchemy(frame: FrameType | None) -> bool:
    """Whether SQLAlchemy waits for this, through a function of the application (``async_creator``)."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__"))
        if name.partition(".")[0] in GREENLET_BRIDGES:
            return True
        if name in EVENT_LOOPS:
            return False
        frame = frame.f_back
    return False
