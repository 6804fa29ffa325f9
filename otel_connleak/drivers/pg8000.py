"""pg8000, which speaks PostgreSQL's protocol in Python (L1)."""

from __future__ import annotations

import os
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

# The status byte of the server's message "ReadyForQuery"; a new connection keeps none yet.
_STATUS: Final = {
    None: Transaction.NONE,
    b"I": Transaction.NONE,
    b"T": Transaction.OPEN,
    b"E": Transaction.ABORTED,
}


def facts(connection: Any) -> Facts:
    """Server and backend process; the name of the database is not kept. Raises once it is closed."""
    peer = connection._usock.getpeername()
    # A Unix socket's peer is the path of a file in the folder that PostgreSQL's other drivers call the host.
    address, port = (os.path.dirname(peer), None) if isinstance(peer, str) else peer[:2]
    key = connection._backend_key_data
    return Facts("postgresql", None, address or None, port, int.from_bytes(key[:4]) if key else None)


def transaction(connection: Any) -> Transaction:
    """The transaction status of the server's last answer."""
    return _STATUS.get(connection._transaction_status, Transaction.UNKNOWN)


def sees_calls(connection: Any) -> bool:
    """Whether its calls to the server are seen: there are no hooks but our proxies (`trace_dbapi`)."""
    return hasattr(type(connection), "_self_is_traced")


def begins(connection: Any, _statement: Any) -> bool:
    """Whether a statement that is to be run begins a transaction: any does, without autocommit."""
    return not connection.autocommit and transaction(connection) is Transaction.NONE


DRIVER: Final = Driver(
    facts,
    transaction,
    sees_calls,
    begins=begins,
    transaction_hint="call `commit()` or `rollback()` on every path, the latter in an `except`",
)
