"""Applications with a layer of their own around psycopg_pool, or with a pool class of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage


class Database:
    """The application's own layer around the pool."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self._pool = pool

    def acquire(self) -> Any:
        """A connection with the application's settings."""
        connection = self._pool.getconn()
        connection.execute("SET statement_timeout = '10s'")
        return connection

    def release(self, connection: Any) -> None:
        """Take it back."""
        self._pool.putconn(connection)

    @contextlib.contextmanager
    def session(self) -> Iterator[Any]:
        """A connection for a ``with`` statement."""
        connection = self.acquire()
        try:
            yield connection
        finally:
            self.release(connection)

    def names(self) -> list[str]:
        """All names."""
        with self.session() as connection:
            return [name for (name,) in connection.execute("SELECT name FROM customers")]


class CountingPool(ConnectionPool[Any]):
    """A pool that counts what it gives out."""

    given_out = 0

    def getconn(self, timeout: float | None = None) -> Any:
        """Count, and give out."""
        connection = super().getconn(timeout)
        self.given_out += 1
        return connection


def find_names(database: Database, pattern: str) -> list[str]:
    """Forgets to release when nothing is found."""
    connection = database.acquire()
    rows = connection.execute("SELECT name FROM customers WHERE name LIKE %s", (pattern,)).fetchall()
    if not rows:
        return []
    database.release(connection)
    return [name for (name,) in rows]


def first_after(pool: CountingPool, number: int) -> Any:
    """Forgets to give back when there is none."""
    connection = pool.getconn()
    row = connection.execute("SELECT name FROM customers WHERE id > %s", (number,)).fetchone()
    if row is None:
        return None
    pool.putconn(connection)
    return row[0]


def own_layer(stage: Stage) -> None:
    """The application's own layer hands connections out and takes them back."""
    database = Database(stage.pool())
    database.names()
    find_names(database, "customer%")
    with database.session() as connection:
        stage.wait()
        connection.execute("SELECT name FROM customers").fetchall()


def own_layer_is_forgotten(stage: Stage) -> None:
    """A function does not give back what the application's own layer has handed out."""
    database = Database(stage.pool())
    database.names()
    stage.fact()
    find_names(database, "nobody")


def own_class(stage: Stage) -> None:
    """The application has derived a pool class of its own."""
    with CountingPool(stage.dsn, open=True, min_size=1, max_size=2) as pool:
        assert first_after(pool, 1) == "customer 2"
        with pool.connection() as connection:
            stage.wait()
            connection.execute("SELECT name FROM customers").fetchall()


def own_class_is_forgotten(stage: Stage) -> None:
    """A function does not give back what the application's own pool class has handed out."""
    with CountingPool(stage.dsn, open=True, min_size=1, max_size=2) as pool:
        first_after(pool, 1)
        stage.fact()
        first_after(pool, 3)
