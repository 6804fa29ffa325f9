# ruff: noqa: INP001, T201 - a program of its own, which prints
"""A service as the README means it: it knows nothing of OpenTelemetry and forgets a connection."""

import os
import sys

import psycopg_pool


class CustomerRepository:
    """The repository layer of this service."""

    def __init__(self, pool: psycopg_pool.ConnectionPool) -> None:
        self._pool = pool

    def list_customers(self) -> int:
        """Returns before it gives the connection back."""
        connection = self._pool.getconn()
        row = connection.execute("SELECT count(*) FROM pg_class").fetchone()
        return row[0] if row else 0


with psycopg_pool.ConnectionPool(os.environ["DATABASE_URL"], min_size=1, max_size=2, open=True) as pool:
    print("customers:", CustomerRepository(pool).list_customers())
    sys.stdout.flush()
