# ruff: noqa: INP001, T201 - a program of its own, which prints
"""A service whose connections come from a pool that nobody but a third party's package knows."""

import functools
import os

import psycopg
from toypool import Pool  # type: ignore[import-not-found]  # tests/thirdparty, installed for it

COUNT = "SELECT count(*) FROM customers"


class Customers:
    """The repository layer of this service."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def count(self) -> int:
        """Correct."""
        with self._pool.connection() as connection:
            return int(connection.execute(COUNT).fetchone()[0])

    def count_and_forget(self) -> int:
        """Returns before it puts the connection back."""
        connection = self._pool.get()
        return int(connection.execute(COUNT).fetchone()[0])


customers = Customers(Pool(functools.partial(psycopg.connect, os.environ["DSN"]), size=2))
print(customers.count(), customers.count_and_forget(), customers.count())
