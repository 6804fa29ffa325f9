"""psycopg2: direct connections, and the driver calls of all its connections, pooled ones too (L2).

Its connections and cursors are of classes written in C, whose methods cannot be replaced. But the application
may say which subclass it wants, and gets a subclass of that, or of psycopg2's own: it has the same name, adds
no attribute, and ``__class__`` gives the class that was asked for. Two classes of ours stand in its line of
inheritance, in front of the application's class and behind it: this may call what psycopg2's class has by
``super()``, or past whatever stands between, and only what arrives behind it says which cursor is wanted.

No hold where no ``close`` can be seen: asynchronous connections, which are left as they are, those that a
function makes which the application gave for a class, and ``psycopg2.extensions.connection()``.
"""

from __future__ import annotations

import functools
import operator
import weakref
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers.psycopg2 import DRIVER, HOOKED
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_SOURCE: Final = "psycopg2"
_HINT: Final = "use `with contextlib.closing(connection):`; `with connection:` alone does not close it"
_CONNECTION_CALLS: Final = (
    "commit rollback reset cancel set_client_encoding set_isolation_level set_session "
    "tpc_begin tpc_prepare tpc_commit tpc_rollback tpc_recover".split()
)
_CURSOR_CALLS: Final = "execute executemany callproc copy_from copy_to copy_expert".split()
_NAMED_CURSOR_CALLS: Final = "fetchone fetchmany fetchall scroll close __next__".split()
"""What calls the server only where the rows have stayed there: with a named cursor."""
_REPLICATION_CALLS: Final = "start_replication_expert consume_stream read_message send_feedback".split()
_MAY_LEAD_PAST_US: Final = "fileno poll lobject cursor".split()
"""What makes it impossible to say how long a connection has been idle. Who calls the first two waits for
notifications, perhaps for ever; the methods of a large object call the server unseen, and so do those of a
cursor that a function has made, or a class of the application's by calling psycopg2's own method."""


class Psycopg2Adapter:
    """Hooks what connects, behind ``psycopg2.connect``: also where that was imported before."""

    module = "psycopg2"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook psycopg2. Raises `AttributeError` if it has changed."""
        import psycopg2
        from psycopg2 import extensions

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        shared = hooks, registry, self._patches
        cursors = _Cursors(extensions.cursor, *shared, statements=settings.statements != "off")
        self._connections = _Connections(extensions.connection, *shared, cursors)
        self._patches.replace(
            psycopg2,
            "_connect",
            lambda original: hooks.acquires(
                self._connect(original), self._track, self._connections.seen, direct=True
            ),
        )

    def uninstall(self) -> None:
        """Give back the identical function. Connections that are there keep their class, without effect."""
        self._patches.undo()
        HOOKED.clear()

    def _track(self, connection: Any, *_dsn: Any) -> Tracked:
        tracked = self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)
        tracked.hint = _HINT
        return tracked

    def _connect(self, original: Any) -> Any:
        @functools.wraps(original)
        def _connect(*args: Any, **kwargs: Any) -> Any:
            if self._patches.active and not (kwargs.get("async") or kwargs.get("async_")):
                try:
                    kwargs["connection_factory"] = self._connections.of(kwargs.get("connection_factory"))
                except Exception:
                    failed("psycopg2 connection_factory")
            return original(*args, **kwargs)

        return _connect


class _Connections:
    """The classes of connections that tell what they are asked, one for each class of the application's.

    Args:
        own: psycopg2's class.
        hooks: for their methods.
        registry: has the holds.
        patches: while they are not active, the methods do nothing but pass on.
        cursors: the classes of their cursors.
    """

    def __init__(
        self, own: Any, hooks: Hooks, registry: Registry, patches: Patches, cursors: _Cursors
    ) -> None:
        self._own = own
        self._hooks = hooks
        self._registry = registry
        self._patches = patches
        self._cursors = cursors
        self._above = self._ours()
        self._below = self._ours()
        self._below.cursor = self._cursor_to_make(self._below.cursor)
        # Weak: an application, or an instrumentation of it, may make a class for each connection.
        self._made: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

    def of(self, factory: Any) -> Any:
        """What is to make a connection in place of what the application gave for it, or None."""
        factory = self._own if factory is None else factory
        if not _is_class(factory, self._own) or issubclass(factory, self._below):
            return factory
        made = self._made.get(factory)
        if made is None:
            line = (self._below,) if factory is self._own else (self._above, factory, self._below)
            made = self._made[factory] = _like(factory, *line)
            HOOKED.add(made)
        return made

    def seen(self, connection: Any) -> Any:
        """The connection, or None if nothing is seen of what becomes of it."""
        return connection if isinstance(connection, self._below) and not connection.async_ else None

    def _ours(self) -> Any:
        ours: Any = _like(self._own, self._own)
        for name in _CONNECTION_CALLS:
            setattr(ours, name, self._hooks.calls(_passing_on(ours, name), DRIVER.transaction))
        for name in _MAY_LEAD_PAST_US:
            setattr(ours, name, self._may_lead_past_us(_passing_on(ours, name)))
        ours.close = self._hooks.releases(_passing_on(ours, "close"))
        ours.__del__ = self._finalize(ours)
        return ours

    def _may_lead_past_us(self, original: Any) -> Any:
        @functools.wraps(original)
        def may_lead_past_us(connection: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(connection, *args, **kwargs)
            if self._patches.active and not self._cursors.tells(result):
                hold = self._registry.hold_of(connection)
                # Under gevent psycopg2 itself calls ``poll`` and ``fileno``, during a call that is seen.
                if hold is not None and hold.busy_since is None:
                    hold.long_lived = True
            return result

        return may_lead_past_us

    def _cursor_to_make(self, original: Any) -> Any:
        @functools.wraps(original)
        def cursor(
            connection: Any, name: Any = None, cursor_factory: Any = None, *args: Any, **kwargs: Any
        ) -> Any:
            if self._patches.active:
                try:
                    asked = connection.cursor_factory if cursor_factory is None else cursor_factory
                    cursor_factory = self._cursors.of(asked, named=name is not None)
                except Exception:
                    failed("psycopg2 cursor_factory")
            return original(connection, name, cursor_factory, *args, **kwargs)

        return cursor

    def _finalize(self, ours: Any) -> Any:
        def __del__(connection: Any) -> None:
            # Broken or closed past us, and then dropped: there was nothing left to release.
            if self._patches.active:
                try:
                    if connection.closed:
                        tracked = self._registry.closing(connection)
                        if tracked is not None:
                            tracked.closed = True
                except Exception:
                    failed("psycopg2 __del__")
            following = getattr(super(ours, connection), "__del__", None)
            if following is not None:
                following()

        return __del__


class _Cursors:
    """The classes of cursors that tell what they are asked, one for each class of the application's.

    Args:
        own: psycopg2's class.
        hooks: for their methods.
        registry: has the holds.
        patches: while they are not active, the methods do nothing but pass on.
        statements: whether the last statement is remembered.
    """

    def __init__(
        self, own: Any, hooks: Hooks, registry: Registry, patches: Patches, *, statements: bool
    ) -> None:
        self._own = own
        self._hooks = hooks
        self._registry = registry
        self._patches = patches
        self._with_statement = ("execute", "executemany", "copy_expert") if statements else ()
        self._above, self._below = self._ours(), self._ours()
        self._above_named, self._below_named = self._ours(named=True), self._ours(named=True)
        self._made: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

    def of(self, factory: Any, *, named: bool) -> Any:
        """What is to make a cursor in place of what the application gave for it, or None."""
        factory = self._own if factory is None else factory
        if not _is_class(factory, self._own) or issubclass(factory, (self._below, self._below_named)):
            return factory
        made = self._made.get((factory, named))
        if made is None:
            above, below = (self._above_named, self._below_named) if named else (self._above, self._below)
            line = (below,) if factory is self._own else (above, factory, below)
            made = self._made[factory, named] = _like(factory, *line)
            self._add_calls(made, [name for name in _REPLICATION_CALLS if hasattr(factory, name)])
        return made

    def tells(self, cursor: Any) -> bool:
        """Whether it is a cursor whose calls are seen."""
        return isinstance(cursor, (self._below, self._below_named))

    def _ours(self, *, named: bool = False) -> Any:
        ours: Any = _like(self._own, self._own)
        self._add_calls(ours, _CURSOR_CALLS)
        for name in self._with_statement:
            setattr(ours, name, self._noting(getattr(ours, name)))
        if named:
            fetched = _passing_on(ours, "__next__")
            self._add_calls(ours, _NAMED_CURSOR_CALLS)
            ours.__next__ = _next(fetched, ours.__next__)
        return ours

    def _add_calls(self, ours: Any, names: list[str]) -> None:
        for name in names:
            passing_on = _passing_on(ours, name)
            connection = operator.attrgetter("connection")
            setattr(ours, name, self._hooks.calls(passing_on, DRIVER.transaction, connection))

    def _noting(self, original: Any) -> Any:
        @functools.wraps(original)
        def execute(cursor: Any, *args: Any, **kwargs: Any) -> Any:
            hold = self._registry.hold_of(cursor.connection) if self._patches.active else None
            if hold is not None and hold.busy_since is None:
                statement: Any = args[0] if args else kwargs.get("query") or kwargs.get("sql")
                if not isinstance(statement, str | bytes):
                    try:
                        # It quotes as the connection says, which may be gone when a report is written.
                        statement = statement.as_string(cursor)
                    except Exception:
                        statement = None  # psycopg2 refuses it too, and tells the application why
                hold.statement = statement
            return original(cursor, *args, **kwargs)

        return execute


def _next(fetched: Any, fetch: Any) -> Any:
    """The rows of a named cursor come in batches: only what fetches a batch is a call to the server."""

    @functools.wraps(fetched)
    def __next__(cursor: Any) -> Any:
        return fetched(cursor) if cursor.rownumber < cursor.rowcount else fetch(cursor)

    return __next__


def _is_class(factory: Any, own: Any) -> bool:
    """Whether a factory is psycopg2's class or made from it; it may be a function."""
    return isinstance(factory, type) and issubclass(factory, own)


def _like(base: Any, *bases: Any) -> Any:
    """A new class that looks like ``base``, and whose objects say that this is their class."""
    namespace = {
        "__slots__": (),  # or its objects would have attributes, which psycopg2's own have not
        "__module__": base.__module__,
        "__qualname__": base.__qualname__,
        "__doc__": base.__doc__,
        # An application may count something in ``self.__class__``, or call ``super(self.__class__, self)``.
        "__class__": property(lambda _: base),
    }
    return type(base)(base.__name__, bases, namespace)


def _passing_on(cls: Any, name: str) -> Any:
    """A method for a class that calls the method of the next one in the line of inheritance."""

    @functools.wraps(getattr(cls, name))
    def method(this: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(super(cls, this), name)(*args, **kwargs)

    return method
