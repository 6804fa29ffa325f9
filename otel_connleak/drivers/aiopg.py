"""aiopg's connections, each around one of psycopg2's (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

# libpq's PQtransactionStatus, in the order of its numbers.
_STATUS: Final = (
    Transaction.NONE,
    Transaction.ACTIVE,
    Transaction.OPEN,
    Transaction.ABORTED,
    Transaction.UNKNOWN,
)


def facts(connection: Any) -> Facts:
    """Server, database and backend process; nothing of a connection that is closed."""
    info = connection.raw.info
    address = info.host or None
    # A Unix socket is a path, and has no port (OpenTelemetry semantic conventions, "server").
    port = None if address is None or address.startswith(("/", "@")) else info.port
    return Facts("postgresql", info.dbname or None, address, port, info.backend_pid or None)


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread, also while a query runs."""
    return _STATUS[connection.raw.get_transaction_status()]


DRIVER: Final = Driver(
    facts,
    transaction,
    transaction_hint="use `async with cursor.begin():` so that it ends on every path",
)
