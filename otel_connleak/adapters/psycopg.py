"""psycopg 3: direct connections, and the driver calls of all its connections, pooled ones too (L2).

Every driver call of psycopg passes through ``Connection.wait`` (``AsyncConnection.wait``), and every
statement through ``BaseCursor._start_query``; two small hooks see them all, also those of server-side
cursors, ``stream()``, ``copy()``, pipelines, commit and rollback. Which of the last two,
``BaseConnection._exec_command`` tells.

A server-side cursor is open from ``execute`` to ``close``, or until a fetch gives fewer rows than were asked
for: then nobody misses what the server still keeps of it.
"""

from __future__ import annotations

import functools
import operator
import sys
import weakref
from typing import Any, Final

from otel_connleak.call_hooks import wrote_nothing
from otel_connleak.config import Settings
from otel_connleak.connection import Tracked, Transaction
from otel_connleak.drivers.psycopg import DRIVER, STATUS
from otel_connleak.finalizers import finalizes
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.nesting import connects_for_a_pool, inside
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.server_cursors import ServerCursors
from otel_connleak.verbs import Verb, verb_of

_SOURCE: Final = "psycopg"
_CURSOR_HINT: Final = "use `with connection.cursor(name) as cursor:` so that it is closed on every path"
_ACTIVE: Final = Transaction.ACTIVE
_READ, _WRITE = Verb.READ, Verb.WRITE


class PsycopgAdapter:
    """Hooks connect and close of both connection classes, their driver calls, and the finalizer."""

    module = "psycopg"

    def __init__(self) -> None:
        self._patches = Patches()
        self._calling_now: Hold | None = None

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook psycopg. Raises `AttributeError` if it has changed."""
        import psycopg
        from psycopg._cursor_base import BaseCursor
        from psycopg._server_cursor_base import ServerCursorMixin

        self._registry = registry
        cursors = self._cursors = ServerCursors(_SOURCE, registry, self._patches, _CURSOR_HINT)
        hooks = Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(psycopg.Connection, "connect", self._connect)
        replace(psycopg.Connection, "close", hooks.releases)
        replace(psycopg.Connection, "wait", self._wait)
        replace(psycopg.AsyncConnection, "connect", self._async_connect)
        replace(psycopg.AsyncConnection, "close", hooks.releases_async)
        replace(psycopg.AsyncConnection, "wait", self._async_wait)
        replace(psycopg.BaseConnection, "__del__", self._finalize)
        # The module's ``connect`` is an alias that was bound before the method was replaced.
        replace(psycopg, "connect", lambda _: psycopg.Connection.connect)
        replace(psycopg.BaseConnection, "_exec_command", self._exec_command)
        replace(BaseCursor, "_start_query", self._start_query)
        replace(BaseCursor, "_start_copy_gen", self._start_copy)
        replace(psycopg.ServerCursor, "execute", cursors.opens)
        replace(psycopg.ServerCursor, "close", cursors.closes)
        replace(psycopg.AsyncServerCursor, "execute", cursors.opens_async)
        replace(psycopg.AsyncServerCursor, "close", cursors.closes_async)
        replace(ServerCursorMixin, "_fetch_gen", self._fetches)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._calling_now = None

    def _track(self, connection: Any) -> Tracked:
        return self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)

    def _connect(self, original: Any) -> Any:
        patches, acquire, track = self._patches, self._registry.acquire, self._track
        bind = original.__get__

        @functools.wraps(original.__func__)
        def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            # Bound anew for each class: another instrumentation's wrapper may stand here.
            connection = bind(None, cls)(*args, **kwargs)
            if patches.active and not inside.get():
                try:
                    frame = sys._getframe(1)
                    if not connects_for_a_pool(frame):
                        acquire(_SOURCE, connection, frame, track)
                except Exception:
                    failed("psycopg connect")
            return connection

        return classmethod(connect)

    def _async_connect(self, original: Any) -> Any:
        patches, acquire, track = self._patches, self._registry.acquire, self._track
        bind = original.__get__

        @functools.wraps(original.__func__)
        async def connect(cls: Any, *args: Any, **kwargs: Any) -> Any:
            connection = await bind(None, cls)(*args, **kwargs)
            if patches.active and not inside.get():
                try:
                    frame = sys._getframe(1)
                    if not connects_for_a_pool(frame):
                        acquire(_SOURCE, connection, frame, track)
                except Exception:
                    failed("psycopg connect")
            return connection

        return classmethod(connect)

    def _called(
        self, connection: Any, hold: Hold, started: float, error: BaseException | None = None
    ) -> None:
        try:
            status = STATUS[connection.pgconn.transaction_status]
            if status is _ACTIVE and (not connection.autocommit or connection._num_transactions):
                # A pipeline, ``copy()`` or ``stream()`` goes on; the transaction has begun before.
                status = Transaction.OPEN
            if hold.verb is _WRITE and hold.writer is not None:
                cursor, hold.writer = hold.writer(), None
                # The results of a pipeline come later.
                if cursor is not None and connection._pipeline is None and wrote_nothing(cursor):
                    hold.verb = Verb.READ
            self._registry.called(hold, started, status, error)
        except Exception:
            failed("psycopg wait")

    def _wait(self, original: Any) -> Any:
        patches, called, tell = self._patches, self._called, self._registry.called
        hold_of, clock = self._registry.hold_of, self._registry.clock

        @functools.wraps(original)
        def wait(connection: Any, *args: Any, **kwargs: Any) -> Any:
            # Written out here and below: a call more would be a twentieth of what the hooks cost.
            hold = None
            if patches.active:
                try:
                    hold = hold_of(connection)
                    if hold is not None:
                        started = hold.busy_since = clock()
                        self._calling_now = hold
                except Exception:
                    failed("psycopg wait")
            if hold is None:
                return original(connection, *args, **kwargs)
            try:
                result = original(connection, *args, **kwargs)
            except BaseException as error:
                called(connection, hold, started, error)
                raise
            try:
                status = STATUS[connection.pgconn.transaction_status]
                if status is _ACTIVE or hold.verb is _WRITE:
                    called(connection, hold, started)
                else:
                    tell(hold, started, status)
            except Exception:
                failed("psycopg wait")
            return result

        return wait

    def _async_wait(self, original: Any) -> Any:
        patches, called = self._patches, self._called
        hold_of, clock = self._registry.hold_of, self._registry.clock

        @functools.wraps(original)
        async def wait(connection: Any, *args: Any, **kwargs: Any) -> Any:
            hold = None
            if patches.active:
                try:
                    hold = hold_of(connection)
                    if hold is not None:
                        started = hold.busy_since = clock()
                        self._calling_now = hold
                except Exception:
                    failed("psycopg wait")
            if hold is None:
                return await original(connection, *args, **kwargs)
            try:
                result = await original(connection, *args, **kwargs)
            except BaseException as error:
                called(connection, hold, started, error)
                raise
            called(connection, hold, started)
            return result

        return wait

    def _start_query(self, original: Any) -> Any:
        """What the application wants to be run. It is called within `wait`."""
        patches, hold_of = self._patches, self._registry.hold_of

        @functools.wraps(original)
        def _start_query(cursor: Any, query: Any = None) -> Any:
            if query is not None and patches.active:
                try:
                    # Nearly always that of the call within which this is called: to look it up again would
                    # be a tenth of what the hooks cost.
                    hold = self._calling_now
                    if hold is None or hold.tracked.key != id(cursor._conn):
                        hold = hold_of(cursor._conn)
                    if hold is not None:
                        hold.statement = query
                        verb = verb_of(query)
                        if verb is not _READ:  # that is what it is taken for anyway
                            hold.verb = verb
                            if verb is _WRITE:
                                hold.writer = weakref.ref(cursor)
                except Exception:
                    failed("psycopg statement")
            return original(cursor, query)

        return _start_query

    def _start_copy(self, original: Any) -> Any:
        """COPY takes another way. It is called just before `wait`."""

        @functools.wraps(original)
        def _start_copy_gen(cursor: Any, statement: Any, *args: Any, **kwargs: Any) -> Any:
            if self._patches.active:
                try:
                    hold = self._registry.hold_of(cursor._conn)
                    if hold is not None:
                        hold.statement, hold.verb = statement, verb_of(statement)
                except Exception:
                    failed("psycopg COPY")
            return original(cursor, statement, *args, **kwargs)

        return _start_copy_gen

    def _exec_command(self, original: Any) -> Any:
        """What psycopg runs on its own account: commit, rollback, the blocks of ``transaction()``."""
        patches = self._patches

        @functools.wraps(original)
        def _exec_command(connection: Any, command: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.active:
                try:
                    hold = self._registry.hold_of(connection)
                    # The BEGIN before a statement says less than the statement, which was noted before.
                    if hold is not None and hold.verb is Verb.NONE:
                        hold.verb = verb_of(command)
                except Exception:
                    failed("psycopg command")
            return original(connection, command, *args, **kwargs)

        return _exec_command

    def _fetches(self, original: Any) -> Any:
        @functools.wraps(original)
        def _fetch_gen(cursor: Any, num: int | None) -> Any:
            rows = yield from original(cursor, num)
            if num is None or len(rows) < num:
                self._cursors.closed(cursor)
            return rows

        return _fetch_gen

    def _finalize(self, original: Any) -> Any:
        # psycopg gives no warning of a connection that was closed or broken below us, and neither do we.
        return finalizes(
            original, self._registry, self._patches, (_SOURCE,),
            is_closed=operator.attrgetter("closed"), takes_back=False,
        )  # fmt: skip
