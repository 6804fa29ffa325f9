"""sqlite3 of the standard library (L1)."""

from __future__ import annotations

import functools
import gc
import os
import re
import sqlite3
import weakref
from typing import Any, Final

from otel_connleak.connection import Facts, Transaction
from otel_connleak.drivers import Driver

_WRITES: Final = re.compile(
    r"(?:\s|--[^\n]*\n|/\*.*?\*/)*+(?:INSERT|UPDATE|DELETE|REPLACE)\b", re.IGNORECASE | re.DOTALL
)
"""What sqlite3 begins a transaction before."""

_databases: Final[weakref.WeakKeyDictionary[Any, str | None]] = weakref.WeakKeyDictionary()
"""What each connection was opened with. It does not know it itself; to ask SQLite would be a statement."""


def opened(connection: Any, database: Any) -> None:
    """Remember what a connection was opened with, whose calls are seen.

    Args:
        connection: a connection that can be weakly referenced.
        database: the argument ``database`` of ``sqlite3.connect``.
    """
    name = os.fsdecode(database)
    if name.startswith("file:"):
        name = name.partition("?")[0]  # the parameters of a URI are no part of the name
    _databases[connection] = name or None


def facts(connection: Any) -> Facts:
    """The database as it was called in ``sqlite3.connect``; there is no server."""
    return Facts("sqlite", _databases.get(connection), has_server=False)


def transaction(connection: Any) -> Transaction:
    """The transaction status.

    It may be read from any thread, also of a connection that is for one thread only: of all that a connection
    has, this alone is not checked for it.
    """
    try:
        return Transaction.OPEN if connection.in_transaction else Transaction.NONE
    except Exception:  # it is closed
        return Transaction.UNKNOWN


def own_references(connection: Any) -> int:
    """How many references a connection has from its own cache of statements, while it is open.

    The cache is a `functools.lru_cache` of the connection, which is callable: so a connection that was
    dropped lives on until the garbage collector finds the cycle.
    """
    caches = [own for own in gc.get_referents(connection) if type(own) is functools._lru_cache_wrapper]
    return sum(
        each is connection for cache in caches for each in (*gc.get_referents(cache), *vars(cache).values())
    )


def begins(connection: Any, statement: Any) -> bool:
    """Whether a statement that is to be run begins a transaction: with legacy control, one that writes."""
    try:
        autocommit = connection.autocommit
        if autocommit is True or autocommit is False:
            return not autocommit
        writes = isinstance(statement, str) and _WRITES.match(statement) is not None
        return writes and connection.isolation_level is not None and not connection.in_transaction
    except Exception:  # it is closed, or not for this thread
        return False


def scripts_commit(connection: Any) -> bool:
    """Whether ``executescript`` begins with a commit, which it does with legacy control."""
    return bool(connection.autocommit == sqlite3.LEGACY_TRANSACTION_CONTROL)


DRIVER: Final = Driver(
    facts,
    transaction,
    lambda connection: connection in _databases,
    begins,
    "use `with connection:`, which commits or rolls back, or call `commit()` on every path",
)
