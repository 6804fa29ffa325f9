"""PyMySQL (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

# Bits of the status that the server sends with its answers, by MySQL's protocol.
_IN_TRANSACTION: Final = 1
_AUTOCOMMIT: Final = 2


def facts(connection: Any) -> Facts:
    """Server, database and connection id, which the connection keeps when it is closed."""
    # MariaDB says so in its version. It is the server's first message: no round trip.
    system = "mariadb" if "mariadb" in connection.server_version.lower() else "mysql"
    database = connection.db
    if isinstance(database, bytes):
        database = database.decode("utf-8", "replace")
    socket = connection.unix_socket
    # A Unix socket has no port (OpenTelemetry semantic conventions, "server").
    port = None if socket else connection.port
    return Facts(system, database or None, socket or connection.host, port, connection.thread_id())


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread.

    PyMySQL keeps the status that comes with the answer to a statement, but not the one that comes with rows.
    So after a SELECT without autocommit it is not known whether this has opened a transaction.
    """
    if not connection.open:
        return Transaction.NONE
    status = connection.server_status
    if status & _IN_TRANSACTION:
        return Transaction.OPEN
    result = connection._result
    rows = result is not None and result.field_count > 0
    return Transaction.UNKNOWN if rows and not status & _AUTOCOMMIT else Transaction.NONE


DRIVER: Final = Driver(facts, transaction)
