"""PyMySQL: direct connections, and the driver calls of all its connections, pooled ones too (L2).

``pymysql.connect`` is the class `Connection`, whose constructor calls its method ``connect``. The method is
hooked, so an application that has imported the class before is seen too. After an error of the network
PyMySQL closes the connection itself, by ``_force_close``: it holds nothing from then on.
"""

from __future__ import annotations

import functools
from typing import Any, Final

from otel_connleak import row_status
from otel_connleak.config import Settings
from otel_connleak.connection import Tracked
from otel_connleak.drivers.pymysql import DRIVER
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.reconnecting import Reconnecting
from otel_connleak.registry import Registry
from otel_connleak.server_cursors import ServerCursors

_SOURCE: Final = "pymysql"
_CURSOR_HINT: Final = "use `with connection.cursor(…) as cursor:` so that the rest is read on every path"
_CALLS: Final = "next_result begin commit rollback autocommit select_db show_warnings".split()
_FETCHES: Final = "_read_rowdata_packet_unbuffered _finish_unbuffered_query".split()


class PyMySQLAdapter:
    """Hooks connect, close and the driver calls of `Connection`, and the fetches of unbuffered results."""

    module = "pymysql"

    def __init__(self) -> None:
        self._patches = Patches()

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook PyMySQL. Raises `AttributeError` if it has changed."""
        from pymysql.connections import Connection, MySQLResult

        self._registry = registry
        hooks = Hooks(_SOURCE, registry, self._patches)
        again = Reconnecting(_SOURCE, registry, self._patches, _session, DRIVER.facts, self._track)
        calls = functools.partial(hooks.calls, transaction=DRIVER.transaction)
        replace = self._patches.replace
        replace(Connection, "connect", again.connects)
        replace(Connection, "close", hooks.releases)
        # ``Connection.__del__`` is the same function, and stays: what is dropped is not released.
        replace(Connection, "_force_close", lambda close: again.closes(close, hooks.releases(close)))
        replace(Connection, "ping", lambda ping: calls(again.connects(ping, anew=True)))
        replace(Connection, "query", functools.partial(calls, statement=True))
        cursors = ServerCursors(_SOURCE, self._registry, self._patches, _CURSOR_HINT)
        row_status.hook(self._patches, Connection, MySQLResult, cursors)
        for name in _CALLS:
            replace(Connection, name, calls)
        for name in _FETCHES:
            replace(MySQLResult, name, lambda fetch: calls(fetch, subject=_connection_of))

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()

    def _track(self, connection: Any) -> Tracked:
        return self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)


def _session(connection: Any) -> Any:
    return connection._sock


def _connection_of(result: Any) -> Any:
    return result.connection
