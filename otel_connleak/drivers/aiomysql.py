"""aiomysql (L1). Its connections are made like PyMySQL's, but they are no subclass."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak import row_status
from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

_TRANSACTION_HINT: Final = "call `commit()` or `rollback()` on every path, the latter in an `except`"


def facts(connection: Any) -> Facts:
    """Server, database and connection id, which the connection keeps when it is closed."""
    # MariaDB says so in its version. It is the server's first message: no round trip.
    system = "mariadb" if "mariadb" in connection.server_version.lower() else "mysql"
    socket = connection.unix_socket
    # A Unix socket has no port (OpenTelemetry semantic conventions, "server").
    port = None if socket else connection.port
    return Facts(system, connection.db or None, socket or connection.host, port, connection.thread_id())


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread."""
    return Transaction.NONE if connection.closed else row_status.transaction(connection)


DRIVER: Final = Driver(facts, transaction, transaction_hint=_TRANSACTION_HINT)
