"""A customer repository, and what exceptions do to its connections."""

from __future__ import annotations

import contextlib
from collections import deque
from typing import Any

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page: their tracebacks keep what was in the functions they left."""


class NoSuchCustomer(LookupError):
    """There is no customer of this number."""


class CustomerRepository:
    """Who buys."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    def list_sorted(self, column: str) -> Any:
        """Skips ``putconn`` when the query raises."""
        connection = self.pool.getconn()
        rows = connection.execute(f"SELECT id, name FROM customers ORDER BY {column}").fetchall()
        self.pool.putconn(connection)
        return rows

    def list_safely(self, column: str) -> Any:
        """Gives back on every path."""
        connection = self.pool.getconn()
        try:
            return connection.execute(f"SELECT id, name FROM customers ORDER BY {column}").fetchall()
        finally:
            self.pool.putconn(connection)


def query_raises(stage: Stage) -> None:
    """A misspelt column; the handler keeps the error for a status page."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_sorted("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
    stage.fact()


def query_raises_and_is_forgotten(stage: Stage) -> None:
    """A misspelt column; nobody keeps the error, and so nobody the connection."""
    repository = CustomerRepository(stage.pool())
    stage.fact()
    with contextlib.suppress(psycopg.Error):
        repository.list_sorted("nmae")


def query_raises_and_is_cleaned_up(stage: Stage) -> None:
    """A misspelt column; ``finally`` gives the connection back although the error is kept."""
    repository = CustomerRepository(stage.pool())
    try:
        repository.list_safely("nmae")
    except psycopg.Error as error:
        recent_errors.append(error)
