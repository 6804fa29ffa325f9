"""The records of SQLAlchemy's pools, which stand for connections that cannot be weakly referenced (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver, driver_of


def facts(record: Any) -> Facts:
    """What its driver tells of the connection."""
    connection = record.driver_connection
    return driver_of(connection).facts(connection)


def transaction(record: Any) -> Transaction:
    """The transaction status of the connection, if there is one now."""
    connection = record.driver_connection
    return Transaction.UNKNOWN if connection is None else driver_of(connection).transaction(connection)


def begins(record: Any, statement: Any) -> bool:
    """Whether a statement that is to be run certainly begins a transaction of the connection."""
    connection = record.driver_connection
    return driver_of(connection).begins(connection, statement)


DRIVER: Final = Driver(facts, transaction, lambda _record: False, begins)
"""Of the calls only SQLAlchemy's own are seen, and not all of these."""
