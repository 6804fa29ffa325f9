"""The lowest layer of the web shop, used by its repositories. No theme of its own."""

from __future__ import annotations

from typing import Any

from psycopg_pool import ConnectionPool


def fetch_all(pool: ConnectionPool[Any], statement: str) -> list[Any]:
    """Run a statement and give its rows; skips ``putconn`` when it raises."""
    connection = pool.getconn()
    rows: list[Any] = connection.execute(statement).fetchall()
    pool.putconn(connection)
    return rows
