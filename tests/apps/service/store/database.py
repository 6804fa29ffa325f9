"""A helper module such as many services have: it acquires, and the repository only asks."""

from typing import Any, LiteralString

from psycopg_pool import ConnectionPool


def fetch_all(pool: ConnectionPool[Any], query: LiteralString) -> list[Any]:
    """Run one query on a connection of its own."""
    with pool.connection() as connection:
        rows: list[Any] = connection.execute(query).fetchall()
        return rows
