"""sqlite3 of the standard library (L2).

Its connections can neither be weakly referenced nor hooked: their class is written in C. So ``connect`` is
given a ``factory`` that is a subclass of the class which the application asked for, of the same name and
without a ``__dict__`` of its own; and so is ``cursor``. That is done for every connection, whoever connects:
the holds of pools and object-relational mappers are looked up by it.

Not seen are connections of a factory that is a plain function or has a metaclass, and of
``sqlite3.Connection`` that is called itself. Fetching is not timed: it is mostly done one row at a time.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections.abc import Callable
from typing import Any, Final

from otel_connleak.call_hooks import itself
from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers import unwrapped
from otel_connleak.drivers.sqlite3 import DRIVER, opened, own_references, scripts_commit
from otel_connleak.guard import failed
from otel_connleak.hold import Ending
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb

_SOURCE: Final = "sqlite3"
_HINT: Final = "use `with contextlib.closing(connection):`; `with connection:` alone does not close it"

_STATEMENTS: Final = ("execute", "executemany", "executescript")
"""Methods of connections and cursors whose first argument is a statement."""
_CALLS: Final = ("backup", "blobopen")
"""Further methods of connections that read or write."""
_ENDS: Final = ("commit", "rollback", "__exit__")
"""Methods that end a transaction. ``with`` does not end the connection."""
_FACTORY_OF_CONNECT: Final = 5
"""The position of ``factory`` among the arguments of ``connect``; Python 3.15 takes it by keyword only."""


class Sqlite3Adapter:
    """Hooks ``connect``; the classes that it makes hook their own methods."""

    module = "sqlite3"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook sqlite3. Raises `AttributeError` if it has changed."""
        import sqlite3
        from sqlite3 import dbapi2

        self._registry = registry
        self._hooks = Hooks(_SOURCE, registry, self._patches)
        self._cursors = _Factories(sqlite3.Cursor, self._methods_of_cursors(sqlite3.Cursor))
        self._connections = _Factories(
            sqlite3.Connection,
            {"__slots__": ("__weakref__",), **self._methods_of_connections(sqlite3.Connection)},
            close=self._close,
        )
        self._patches.replace(dbapi2, "connect", self._connect)
        # An alias, which was bound before the function was replaced.
        self._patches.replace(sqlite3, "connect", lambda _: dbapi2.connect)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    def _track(self, connection: Any, *_: Any) -> Tracked:
        tracked = self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)
        tracked.keeps, tracked.hint = own_references, _HINT
        return tracked

    def _connect(self, original: Any) -> Any:
        patches, connections = self._patches, self._connections

        @functools.wraps(original)
        def connect(_: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.active:
                args = connections.inject(_FACTORY_OF_CONNECT, args, kwargs)
            given = original(*args, **kwargs)
            try:
                connection = own(given)
                if connection is not None:
                    opened(connection, args[0] if args else kwargs["database"])
            except Exception:
                failed("sqlite3 connect")
            return given

        def own(given: Any) -> Any:
            connection = unwrapped(given)
            return connection if connections.made(connection) else None

        acquire = self._hooks.acquires(connect, self._track, own, direct=True)
        # Bound already, because the built-in function stays itself as an attribute of an application's class,
        # where a function would become a method.
        return types.MethodType(acquire, self)

    def _methods_of_connections(self, cls: Any) -> dict[str, Any]:
        calls = self._hooks.calls
        return {
            "close": self._close(cls.close),
            "cursor": self._cursor(cls.cursor),
            **{name: calls(getattr(cls, name), DRIVER.transaction) for name in _CALLS},
            **{name: self._end(getattr(cls, name)) for name in _ENDS},
            **{name: calls(getattr(cls, name), DRIVER.transaction, statement=True) for name in _STATEMENTS},
            "executescript": self._script(cls.executescript, itself),
        }

    def _methods_of_cursors(self, cls: Any) -> dict[str, Any]:
        def connection(cursor: Any) -> Any:
            return getattr(cursor, "connection", None)  # none if the application's class forgot __init__

        return {
            "__slots__": (),
            **{
                name: self._hooks.calls(getattr(cls, name), DRIVER.transaction, connection, statement=True)
                for name in _STATEMENTS
            },
            "executescript": self._script(cls.executescript, connection),
        }

    def _close(self, original: Any) -> Any:
        return self._hooks.releases(original, _to_close)

    def _end(self, original: Any) -> Any:
        """What ends the transaction; ``with`` commits if it is left without an exception."""
        calls = functools.partial(self._hooks.calls, original, DRIVER.transaction)
        commits, rolls_back, does_nothing = (
            calls(verb=Verb.COMMIT),
            calls(verb=Verb.ROLLBACK),
            calls(verb=Verb.READ),
        )
        always_rolls_back = original.__name__ == "rollback"

        @functools.wraps(original)
        def end(connection: Any, *about: Any) -> Any:
            if _is_autocommit(connection):
                call = does_nothing  # not even in a transaction that was begun by hand
            elif always_rolls_back or (about and about[0] is not None):
                call = rolls_back
            else:
                call = commits
            return call(connection, *about)

        return end

    def _script(self, original: Any, subject: Callable[[Any], Any]) -> Any:
        """A script: what was open before it is committed first."""
        call = self._hooks.calls(original, DRIVER.transaction, subject, statement=True)
        patches, registry = self._patches, self._registry

        @functools.wraps(original)
        def executescript(this: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.active:
                try:
                    connection = subject(this)
                    hold = registry.hold_of(connection) if connection is not None else None
                    if hold is not None and hold.inner is not None and scripts_commit(connection):
                        registry.transactions.end(hold, Ending.COMMITTED)
                except Exception:
                    failed("sqlite3 script")
            return call(this, *args, **kwargs)

        return executescript

    def _cursor(self, original: Any) -> Any:
        patches, cursors = self._patches, self._cursors

        @functools.wraps(original)
        def cursor(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.active:
                args = cursors.inject(0, args, kwargs)
            return original(connection, *args, **kwargs)

        return cursor


def _is_autocommit(connection: Any) -> bool:
    try:
        return connection.autocommit is True
    except Exception:  # it is closed, or not for this thread: the call will say so
        return False


def _to_close(connection: Any) -> Any:
    """What ``close()`` closes; nothing if it refuses, because of the thread, or is closed already."""
    try:
        _ = connection.autocommit
    except Exception:
        return None
    return connection


class _Factories:
    """Classes to make connections, or cursors, of; one for each class that the application has for them.

    Args:
        library: the class in C.
        namespace: of the subclass: its methods are the hooks.
        methods: by the name of a method the hook for it, where the application's class has one of its own.
    """

    def __init__(self, library: type, namespace: dict[str, Any], **methods: Callable[[Any], Any]) -> None:
        self._library = library
        self._methods = methods
        self._hooked = _named_as(library, (library,), namespace)
        # Weak on both sides: such a class lives as long as its connections, and the application's as long as
        # the application keeps it.
        self._known: weakref.WeakKeyDictionary[type, weakref.ref[type]] = weakref.WeakKeyDictionary()

    def made(self, instance: Any) -> bool:
        """Whether it is of one of these classes."""
        return isinstance(instance, self._hooked)

    def inject(self, position: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """Put our class in the place of the argument ``factory``, at ``position`` or in ``kwargs``.

        Returns:
            The positional arguments. Never raises.
        """
        try:
            if "factory" in kwargs:
                kwargs["factory"] = self._in_place_of(kwargs["factory"])
            elif len(args) > position:
                return *args[:position], self._in_place_of(args[position]), *args[position + 1 :]
            else:
                kwargs["factory"] = self._hooked
        except Exception:
            failed("sqlite3 factory")
        return args

    def _in_place_of(self, factory: Any) -> Any:
        if factory is self._library:
            return self._hooked
        if not self._can_be_derived_from(factory):
            return factory
        known = self._known.get(factory)
        made = known() if known is not None else None
        if made is None:
            namespace: dict[str, Any] = {"__slots__": ()}
            for name, hook in self._methods.items():
                original = getattr(factory, name)
                if original is not getattr(self._library, name):
                    namespace[name] = hook(original)
            # In the order of the bases: ``super()`` in the application's methods finds our hooks.
            made = _named_as(factory, (factory, self._hooked), namespace)
            self._known[factory] = weakref.ref(made)
        return made

    def _can_be_derived_from(self, factory: Any) -> bool:
        """Whether it is a class of the application's, and a subclass of it would run no code of its own."""
        return (
            type(factory) is type
            and issubclass(factory, self._library)
            and not issubclass(factory, self._hooked)
            and type(factory.__init_subclass__) is types.BuiltinMethodType
        )


def _named_as(model: type, bases: tuple[type, ...], namespace: dict[str, Any]) -> type:
    """A class that calls itself as ``model`` does."""
    about = {name: getattr(model, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(model.__name__, bases, {**about, **namespace})
