"""mysql-connector-python: its connections in Python, over its C extension, and of asyncio (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver


def facts(connection: Any) -> Facts:
    """Server, database and connection id; without the last once it is closed."""
    # MariaDB says so in its version. It is the server's first message: no round trip.
    system = "mariadb" if "mariadb" in str(connection.server_info).lower() else "mysql"
    socket = connection.unix_socket
    # A Unix socket has no port (OpenTelemetry semantic conventions, "server").
    port = None if socket else connection.server_port
    # The property ``database`` would ask the server.
    database = connection._database or None
    return Facts(system, database, socket or connection.server_host, port, connection.connection_id)


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread."""
    return Transaction.OPEN if connection.in_transaction else Transaction.NONE


def after_call(connection: Any) -> Transaction:
    """The same after a call: while there are rows to read, a transaction may be that of their statement only.

    That begins none which lasts, if it is committed at once, or touches no table.
    """
    status = transaction(connection)
    return Transaction.UNKNOWN if status is Transaction.OPEN and connection.unread_result else status


DRIVER: Final = Driver(
    facts,
    transaction,
    transaction_hint="call `commit()` or `rollback()` on every path, the latter in an `except`",
)
