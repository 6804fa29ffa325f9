"""asyncpg's connections (L1)."""

from __future__ import annotations

import os.path
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver
from otel_connleak.verbs import Verb, verb_of


def facts(connection: Any) -> Facts:
    """Server, database and backend process. asyncpg has no public way to the first two."""
    where, address, port = connection._addr, None, None
    if isinstance(where, str):
        address = os.path.dirname(where)  # of a Unix socket; libpq calls its folder the host
    elif isinstance(where, tuple):
        address, port = where[:2]
    return Facts("postgresql", connection._params.database, address, port, connection.get_server_pid())


def transaction(connection: Any) -> Transaction:
    """The transaction status. asyncpg does not tell one that the server has aborted from an open one."""
    if connection.is_closed():
        return Transaction.UNKNOWN
    return Transaction.OPEN if connection.is_in_transaction() else Transaction.NONE


def begins(connection: Any, statement: Any) -> bool:
    """Whether a statement that is to be run begins a transaction: no other does than that which says so."""
    return verb_of(statement) is Verb.BEGIN and transaction(connection) is Transaction.NONE


DRIVER: Final = Driver(
    facts,
    transaction,
    begins=begins,
    transaction_hint="use `async with connection.transaction():` so that it ends on every path",
)
