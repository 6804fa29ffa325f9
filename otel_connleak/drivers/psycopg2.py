"""psycopg2 (L1). Every function but `sees_calls` may raise on a broken connection."""

from __future__ import annotations

import weakref
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

HOOKED: Final[weakref.WeakSet[type]] = weakref.WeakSet()
"""The classes of connections that tell of their calls now; psycopg2's own is written in C and cannot."""


def facts(connection: Any) -> Facts:
    """Server, database and backend process; nothing of a connection that is closed."""
    info = connection.info
    address = info.host or None
    # A Unix socket is a path, and has no port (OpenTelemetry semantic conventions, "server").
    port = None if address is None or address.startswith(("/", "@")) else info.port
    return Facts("postgresql", info.dbname or None, address, port, info.backend_pid or None)


def transaction(connection: Any) -> Transaction:
    """The transaction status; may be read from any thread, also while a query runs."""
    return _STATUS[connection.get_transaction_status()]


def sees_calls(connection: Any) -> bool:
    """Whether its calls to the server are seen.

    Not of a connection that was made before the instrumentation started, or by a function of the
    application's. Who holds an asynchronous one, which calls nothing by itself, has hooks of its own.
    """
    return bool(connection.async_) or type(connection) in HOOKED


def begins(connection: Any, _statement: Any) -> bool:
    """Whether a statement that is to be run begins a transaction: any does, without autocommit."""
    return not connection.autocommit and transaction(connection) is Transaction.NONE


DRIVER: Final = Driver(
    facts,
    transaction,
    sees_calls,
    begins=begins,
    transaction_hint="use `with connection:`, which commits or rolls back on every path",
)
