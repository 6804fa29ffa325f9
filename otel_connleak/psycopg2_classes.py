"""The classes of psycopg2's connections and cursors that tell what they are asked (L1).

Made for `otel_connleak.adapters.psycopg2`, which says why: one for each class of the application's.
"""

from __future__ import annotations

import functools
import operator
import weakref
from collections.abc import Callable
from typing import Any, Final

from otel_connleak.call_hooks import Subject
from otel_connleak.connection import Transaction
from otel_connleak.drivers.psycopg2 import DRIVER, HOOKED
from otel_connleak.guard import failed
from otel_connleak.hold import Hold
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.server_cursors import ServerCursors
from otel_connleak.verbs import Verb

_CURSOR_HINT: Final = "use `with connection.cursor(name) as cursor:` so that it is closed on every path"
_CONNECTION_CALLS: Final = (
    "commit rollback cancel set_session tpc_begin tpc_prepare tpc_commit tpc_rollback tpc_recover".split()
)
_ROLLS_BACK: Final = "reset set_client_encoding set_isolation_level".split()
"""What ends a transaction on the way; the last two only if they change something."""
_CURSOR_CALLS: Final = "callproc copy_to".split()
_WITH_STATEMENT: Final = "execute executemany copy_expert".split()
_NAMED_CURSOR_CALLS: Final = "fetchone fetchmany fetchall scroll close __next__".split()
"""What calls the server only where the rows have stayed there: with a named cursor."""
_REPLICATION_CALLS: Final = "start_replication_expert consume_stream read_message send_feedback".split()
_MAY_LEAD_PAST_US: Final = "fileno poll lobject cursor".split()
"""What makes it impossible to say how long a connection has been idle. Who calls the first two waits for
notifications, perhaps for ever; the methods of a large object call the server unseen, and so do those of a
cursor that a function has made, or a class of the application's by calling psycopg2's own method."""


class Connections:
    """The classes of connections that tell what they are asked, one for each class of the application's.

    Args:
        source: the adapter's name.
        extensions: psycopg2's module, which has its classes.
        registry: has the holds.
        patches: while they are not active, the methods do nothing but pass on.
    """

    def __init__(self, source: str, extensions: Any, registry: Registry, patches: Patches) -> None:
        self._own = extensions.connection
        self._hooks = Hooks(source, registry, patches)
        self._registry = registry
        self._patches = patches
        self._cursors = _Cursors(source, extensions.cursor, registry, patches)
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
        for name in _ROLLS_BACK:
            passing_on = _passing_on(ours, name)
            setattr(ours, name, self._hooks.calls(passing_on, _if_ended, verb=Verb.ROLLBACK))
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
                    if hold.inner is not None:
                        hold.inner.long_lived = True
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
        source: the adapter's name.
        own: psycopg2's class.
        registry: has the holds.
        patches: while they are not active, the methods do nothing but pass on.
    """

    def __init__(self, source: str, own: Any, registry: Registry, patches: Patches) -> None:
        self._own = own
        self._hooks = _CursorHooks(source, registry, patches)
        self._of_server = ServerCursors(source, registry, patches, _CURSOR_HINT)
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
        self._add_calls(ours, _WITH_STATEMENT, statement=True)
        self._add_calls(ours, ["copy_from"], verb=Verb.WRITE)
        if named:
            fetched = _passing_on(ours, "__next__")
            self._add_calls(ours, _NAMED_CURSOR_CALLS)
            ours.__next__ = self._next(fetched, ours.__next__)
            ours.execute = self._of_server.opens(ours.execute)
            ours.close = self._of_server.closes(ours.close)
            for name, asked_for in _ASKED_FOR.items():
                setattr(ours, name, self._of_server.fetches(getattr(ours, name), asked_for))
        return ours

    def _add_calls(self, ours: Any, names: list[str], **about: Any) -> None:
        for name in names:
            passing_on = _passing_on(ours, name)
            connection = operator.attrgetter("connection")
            setattr(ours, name, self._hooks.calls(passing_on, DRIVER.transaction, connection, **about))

    def _next(self, fetched: Any, fetch: Any) -> Any:
        """The rows of a named cursor come in batches: only what fetches a batch is a call to the server."""

        @functools.wraps(fetched)
        def __next__(cursor: Any) -> Any:
            if cursor.rownumber < cursor.rowcount:
                return fetched(cursor)
            try:
                return fetch(cursor)
            except StopIteration:
                self._of_server.closed(cursor)
                raise

        return __next__


class _CursorHooks(Hooks):
    """For cursors: an SQL object quotes as its connection says, which may be gone by the time of a report."""

    def _calling(self, this: Any, subject: Subject, given: Any) -> tuple[Hold | None, float]:
        if type(given) is not str and hasattr(given, "as_string") and self._patches.active:
            try:
                given = given.as_string(this)
            except Exception:
                given = None  # psycopg2 refuses it too, and tells the application why
        return super()._calling(this, subject, given)


def _size(cursor: Any, args: Any, kwargs: Any) -> int | None:
    size: int | None = args[0] if args else kwargs.get("size")
    return cursor.arraysize if size is None else size


_ASKED_FOR: Final[dict[str, Callable[[Any, Any, Any], int | None]]] = {
    "fetchone": lambda _cursor, _args, _kwargs: 0,
    "fetchmany": _size,
    "fetchall": lambda _cursor, _args, _kwargs: None,
}
"""How many rows each method is asked for, as `ServerCursors.fetches` wants to know it."""


def _if_ended(connection: Any) -> Transaction:
    """The transaction status, if the transaction has ended, and else one that says nothing."""
    status = DRIVER.transaction(connection)
    return status if status is Transaction.NONE else Transaction.ACTIVE


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
