"""What several themes use: an application's own helpers around its pool, in a module of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg_pool import ConnectionPool

type Pool = ConnectionPool[Any]


@contextmanager
def connection_of(pool: Pool) -> Iterator[Any]:
    """A connection for a ``with`` statement; gives back on every path."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


@contextmanager
def hasty_connection_of(pool: Pool) -> Iterator[Any]:
    """A connection for a ``with`` statement; without ``finally``."""
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)


def get_db(pool: Pool) -> Iterator[Any]:
    """A dependency that yields a connection; gives back on every path."""
    connection = pool.getconn()
    try:
        yield connection
    finally:
        pool.putconn(connection)


def get_db_hastily(pool: Pool) -> Iterator[Any]:
    """A dependency that yields a connection; without ``finally``."""
    connection = pool.getconn()
    yield connection
    pool.putconn(connection)
