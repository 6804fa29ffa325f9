"""aiosqlite: connections, and the calls of all of them, also of those that a pool keeps (L2).

Whatever a connection or its cursors do passes through ``Connection._execute``, and is done by sqlite3 in the
connection's own thread.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from otel_connleak.call_hooks import itself
from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers.aiosqlite import DRIVER, references_of_its_thread
from otel_connleak.finalizers import finalizes
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb

_SOURCE: Final = "aiosqlite"

_WITH_STATEMENT: Final = frozenset(
    {"execute", "executemany", "executescript", "_execute_insert", "_execute_fetchall"}
)
"""The names of the functions, run in the connection's thread, whose first argument is a statement."""
_VERBS: Final = {"commit": Verb.COMMIT, "rollback": Verb.ROLLBACK}
"""What the functions do that end the transaction, by their names."""


class AiosqliteAdapter:
    """Hooks connect, close and the calls, and the finalizer: a connection that is dropped closes itself."""

    module = "aiosqlite"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook aiosqlite. Raises `AttributeError` if it has changed."""
        from aiosqlite.core import Connection

        self._registry = registry
        self._hooks = hooks = _Hooks(_SOURCE, registry, self._patches)
        replace = self._patches.replace
        replace(Connection, "_connect", self._connect)
        replace(Connection, "close", hooks.releases_async)
        replace(Connection, "_execute", hooks.executes)
        if "__del__" in vars(Connection):
            # Before 0.22 a connection was its own thread: it never died of itself, and had no ``stop``.
            replace(Connection, "stop", hooks.releases)
            replace(Connection, "__del__", self._finalize)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    def _track(self, connection: Any, *_: Any) -> Tracked:
        tracked = self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)
        if hasattr(connection, "_thread"):
            tracked.keeps = references_of_its_thread
        return tracked

    def _connect(self, original: Any) -> Any:
        connects = self._hooks.connects

        @functools.wraps(original)
        async def connect(connection: Any) -> Any:
            connector = connection._connector
            # It runs in the connection's own thread, where nothing else tells who asks sqlite3.
            connection._connector = connects(connector)
            try:
                return await original(connection)
            finally:
                connection._connector = connector

        return self._hooks.acquires_async(connect, self._track, direct=True)

    def _finalize(self, original: Any) -> Any:
        # It stops its thread and so closes.
        return finalizes(original, self._registry, self._patches, (_SOURCE,))


class _Hooks(Hooks):
    """The hook of ``_execute``, too, which is told what to do."""

    def executes(self, original: Any) -> Any:
        """For ``_execute``: what is called, and what it is given, is what the call does."""

        @functools.wraps(original)
        async def execute(connection: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            hold, started = self._calling(connection, itself, _given(function, args))
            if hold is None:
                return await original(connection, function, *args, **kwargs)
            try:
                result = await original(connection, function, *args, **kwargs)
            except BaseException as error:
                self._called(hold, started, DRIVER.transaction, error)
                raise
            self._called(hold, started, DRIVER.transaction)
            return result

        return execute


def _given(function: Any, args: tuple[Any, ...]) -> Any:
    """The statement that a function is given, or else the verb of what it does."""
    name = getattr(function, "__name__", "")
    if args and name in _WITH_STATEMENT:
        return args[0]
    return _VERBS.get(name, Verb.NONE)
