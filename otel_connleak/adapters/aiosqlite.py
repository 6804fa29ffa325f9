"""aiosqlite: connections, and the calls of all of them, also of those that a pool keeps (L2).

Whatever a connection or its cursors do passes through ``Connection._execute``, and is done by sqlite3 in the
connection's own thread.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers.aiosqlite import DRIVER, references_of_its_thread
from otel_connleak.finalizers import finalizes
from otel_connleak.guard import failed
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.registry import Registry

_SOURCE: Final = "aiosqlite"

_WITH_STATEMENT: Final = frozenset(
    {"execute", "executemany", "executescript", "_execute_insert", "_execute_fetchall"}
)
"""The names of the functions, run in the connection's thread, whose first argument is a statement."""


class AiosqliteAdapter:
    """Hooks connect, close and the calls, and the finalizer: a connection that is dropped closes itself."""

    module = "aiosqlite"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook aiosqlite. Raises `AttributeError` if it has changed."""
        from aiosqlite.core import Connection

        self._registry = registry
        self._hooks = hooks = Hooks(_SOURCE, registry, self._patches)
        self._with_statements = settings.statements != "off"
        replace = self._patches.replace
        replace(Connection, "_connect", self._connect)
        replace(Connection, "close", hooks.releases_async)
        replace(Connection, "_execute", self._execute)
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

    def _execute(self, original: Any) -> Any:
        patches, registry = self._patches, self._registry
        call = self._hooks.calls_async(original, DRIVER.transaction)
        if not self._with_statements:
            return call

        @functools.wraps(original)
        async def execute(connection: Any, function: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.active and args:
                try:
                    hold = registry.hold_of(connection)
                    if hold is not None and getattr(function, "__name__", "") in _WITH_STATEMENT:
                        hold.statement = args[0]
                except Exception:
                    failed("aiosqlite statement")
            return await call(connection, function, *args, **kwargs)

        return execute

    def _finalize(self, original: Any) -> Any:
        # It stops its thread and so closes.
        return finalizes(original, self._registry, self._patches, (_SOURCE,))
