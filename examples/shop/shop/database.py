"""The connection pool of the service, and how a function gets a transaction from it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow, dict_row
from psycopg_pool import ConnectionPool

Row = dict[str, Any]
Pool = ConnectionPool[Connection[DictRow]]


def create_pool(url: str, timeout: float) -> Pool:
    """A closed pool of at most five connections; a caller waits up to `timeout` seconds for one."""
    return ConnectionPool(
        url,
        connection_class=Connection[DictRow],
        kwargs={"row_factory": dict_row},
        name="orders",
        min_size=2,
        max_size=5,
        timeout=timeout,
        open=False,
    )


@contextmanager
def transaction(pool: Pool) -> Iterator[Connection[DictRow]]:
    """A connection with a transaction that commits at the end of the block, or rolls back when it raises."""
    with pool.connection() as conn, conn.transaction():
        yield conn
