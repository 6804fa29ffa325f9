"""mysql-connector-python for asyncio: its pool, direct connections, and the driver calls of both (L2).

The same as for its ordinary functions, in a package of its own that is imported only by who uses it, and with
one class of connections. It is in Python.
"""

from __future__ import annotations

import functools
import weakref
from typing import Any, Final

from otel_connleak.config import Settings
from otel_connleak.connection import Facts, Pool, Tracked
from otel_connleak.drivers.mysql import DRIVER, after_call
from otel_connleak.hooks import Hooks
from otel_connleak.patching import Patches
from otel_connleak.pools import Pools
from otel_connleak.prepared import PreparedStatements
from otel_connleak.reconnecting import Reconnecting
from otel_connleak.registry import Registry
from otel_connleak.verbs import Verb

_DIRECT: Final = "mysql_connector_aio"
_POOL: Final = "mysql_connector_aio_pool"
_HINT: Final = (
    "use `async with await pool.get_connection() as connection:` so that it is returned on every path"
)
_CALLS: Final = (
    "cmd_stmt_fetch cmd_stmt_reset cmd_stmt_close cmd_init_db "
    "cmd_refresh cmd_statistics get_rows commit rollback"
).split()
_RESETS: Final = "cmd_change_user cmd_reset_connection reset_session".split()
"""Methods by which a session begins anew: they roll back."""
_GONE: Final = frozenset({1053, 1927, 2006, 2013, 2055, 4031})
"""The errors of a connection whose session has ended: shut down, killed, gone, lost, idle for too long."""


class MySQLConnectorAioAdapter:
    """Hooks the pool, connect and close of the connections, and their driver calls."""

    module = "mysql.connector.aio"

    def __init__(self) -> None:
        self._patches = Patches()
        self._pools = Pools(_pool)

    def install(self, registry: Registry, settings: Settings) -> None:
        """Hook mysql-connector-python for asyncio. Raises `AttributeError` if it has changed."""
        from mysql.connector.aio import pooling
        from mysql.connector.aio.abstracts import MySQLConnectionAbstract
        from mysql.connector.aio.connection import MySQLConnection

        self._registry = registry
        self._direct = Hooks(_DIRECT, registry, self._patches)
        self._again = Reconnecting(_DIRECT, registry, self._patches, _session, DRIVER.facts, self._track)
        replace = self._patches.replace
        replace(MySQLConnection, "connect", self._again.connects_async)
        replace(
            MySQLConnectionAbstract,
            "reconnect",
            lambda connect: self._again.connects_async(connect, anew=True),
        )
        self._install_driver(MySQLConnection)
        if hasattr(pooling, "MySQLConnectionPool"):  # older versions have no pool for asyncio
            self._install_pool(pooling.MySQLConnectionPool, pooling.PooledMySQLConnection)

    def uninstall(self) -> None:
        """Give back the identical functions."""
        self._patches.undo()
        self._pools.clear()

    def _install_driver(self, cls: Any) -> None:
        prepared = PreparedStatements(self._registry, self._patches, self._calls)
        calls = functools.partial(self._direct.calls_async, transaction=after_call)
        replace = self._patches.replace
        replace(cls, "close", self._closes)
        replace(cls, "disconnect", lambda _: cls.close)  # the same function by another name
        replace(cls, "shutdown", self._closes)
        replace(cls, "is_connected", self._asks)
        replace(cls, "ping", lambda ping: calls(self._asks(ping)))
        replace(cls, "cmd_query", lambda query: calls(self._notices(query), statement=True))
        replace(cls, "cmd_stmt_prepare", prepared.prepares)
        replace(cls, "cmd_stmt_execute", prepared.runs)
        # Which of these there are depends on the version.
        for name in vars(cls).keys() & set(_CALLS):
            replace(cls, name, lambda call: calls(self._notices(call)))
        for name in vars(cls).keys() & set(_RESETS):
            replace(cls, name, lambda call: calls(self._notices(call), verb=Verb.ROLLBACK))

    def _install_pool(self, pool: Any, handed_out: Any) -> None:
        pooled, direct = Hooks(_POOL, self._registry, self._patches), self._direct
        replace = self._patches.replace
        replace(
            pool, "get_connection", lambda get: pooled.acquires_async(get, self._track_pooled, _connection_of)
        )
        # To give one back may connect anew; to give one to the pool ends a hold of a direct connection.
        replace(
            handed_out,
            "close",
            lambda close: pooled.releases_async(pooled.connects_async(close), _connection_of),
        )
        replace(
            pool,
            "add_connection",
            lambda add: direct.releases_async(pooled.connects_async(add), at=1, refuses=True),
        )
        replace(pool, "set_config", pooled.connects_async)  # it tries the parameters out

    def _track(self, connection: Any) -> Tracked:
        return self._registry.track(connection, DRIVER.facts(connection), DRIVER.transaction, None)

    def _track_pooled(self, connection: Any, pool: Any) -> Tracked:
        facts = DRIVER.facts(connection)
        return self._registry.track(connection, facts, DRIVER.transaction, self._pools.of(pool, facts))

    def _closes(self, original: Any) -> Any:
        return self._again.closes_async(original, self._direct.releases_async(original))

    def _calls(self, original: Any, verb: Verb) -> Any:
        return self._direct.calls_async(self._notices(original), after_call, verb=verb)

    def _notices(self, original: Any) -> Any:
        """The driver leaves a connection as it is when its session has ended: the errors tell."""

        @functools.wraps(original)
        async def call(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                return await original(connection, *args, **kwargs)
            except Exception as error:
                if getattr(error, "errno", None) in _GONE:
                    self._again.lost(connection)
                raise

        return call

    def _asks(self, original: Any) -> Any:
        """What asks the server for a sign of life: says no, or raises."""

        @functools.wraps(original)
        async def ask(connection: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                answer = await original(connection, *args, **kwargs)
            except Exception:
                self._silent(connection)
                raise
            if answer is not None and not answer:
                self._silent(connection)
            return answer

        return ask

    def _silent(self, connection: Any) -> None:
        # With rows to read the driver cannot ask, and answers the same.
        if not getattr(connection, "unread_result", True):
            self._again.lost(connection)


def _pool(reference: weakref.ref[Any], _facts: Facts) -> Pool:
    pool: Any = reference()

    def figures() -> tuple[int | None, int | None]:
        # Nobody waits: who asks an exhausted pool is refused.
        return getattr(reference(), "pool_size", None), None

    return Pool(pool.pool_name, figures, _HINT, library=reference)


def _connection_of(handed_out: Any) -> Any:
    return handed_out._cnx


def _session(connection: Any) -> Any:
    return connection._socket
