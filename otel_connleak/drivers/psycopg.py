"""psycopg 3: sync and async connections (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

# libpq's PQtransactionStatus, in the order of its numbers.
STATUS: Final = (
    Transaction.NONE,
    Transaction.ACTIVE,
    Transaction.OPEN,
    Transaction.ABORTED,
    Transaction.UNKNOWN,
)


def facts(connection: Any) -> Facts:
    """Server, database and backend process; raises `psycopg.OperationalError` once it is closed."""
    info = connection.info
    # A Unix socket is a path, and has no port (OpenTelemetry semantic conventions, "server").
    port = None if info.host.startswith(("/", "@")) else info.port
    return Facts("postgresql", info.dbname or None, info.host or None, port, info.backend_pid or None)


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread, also while a query runs."""
    return STATUS[connection.pgconn.transaction_status]


def begins(connection: Any, _statement: Any) -> bool:
    """Whether a statement that is to be run begins a transaction: any does, without autocommit."""
    return not connection.autocommit and transaction(connection) is Transaction.NONE


DRIVER: Final = Driver(
    facts,
    transaction,
    begins=begins,
    transaction_hint="use `with connection.transaction():`, or call `commit()` on every path",
)
