"""oracledb: connections of both modes, thin and thick, sync and async (L1)."""

from __future__ import annotations

from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

_NAMES: Final = ("db_unique_name", "db_name", "service_name")
"""What a database is called, best first, as OpenTelemetry's conventions for Oracle say."""


def facts(connection: Any) -> Facts:
    """Server, database and session; what the driver was told when it connected. Never raises."""
    names = (_read(connection, name) for name in _NAMES)
    return Facts(
        "oracle.db",
        next((str(name) for name in names if name), None),
        _read(connection, "host"),
        _read(connection, "port"),
        _read(connection, "session_id"),
    )


def transaction(connection: Any) -> Transaction:
    """The transaction status, which the server sends with each answer."""
    in_progress = _read(connection, "transaction_in_progress")
    if in_progress is None:
        return Transaction.UNKNOWN
    return Transaction.OPEN if in_progress else Transaction.NONE


def _read(connection: Any, name: str) -> Any:
    """A property, or None where it is not known: some are not in each version and mode, none when closed."""
    try:
        return getattr(connection, name)
    except Exception:
        return None


DRIVER: Final = Driver(
    facts,
    transaction,
    transaction_hint="call `commit()` or `rollback()` on every path, the latter in an `except`",
)
