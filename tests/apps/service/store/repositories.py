# ruff: noqa: T201 - it prints for a test
"""Repository functions, correct ones and ones that do not give their connection back."""

from typing import Any

from psycopg_pool import ConnectionPool

from .database import fetch_all

COUNT = "SELECT count(*) FROM customers WHERE name <> 'secret'"


class NoSuchCustomer(Exception):
    """The client asked for a customer who is not there."""


class Session:
    """Keeps a connection, and itself: only the garbage collector can free it."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.itself = self


class CustomerRepository:
    """All access to customers."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    def list_customers(self) -> None:
        """Correct."""
        with self.pool.connection() as connection:
            connection.execute(COUNT).fetchone()

    def count_customers(self) -> None:
        """Correct, through a helper in another module."""
        fetch_all(self.pool, COUNT)

    def find_customer(self) -> None:
        """Does not give the connection back when there is no such customer; the connection is dropped."""
        connection = self.pool.getconn()
        print(f"find_customer uses server pid {connection.info.backend_pid}")
        row = connection.execute("SELECT * FROM customers WHERE name = 'nobody'").fetchone()
        if row is None:
            raise NoSuchCustomer("nobody")
        self.pool.putconn(connection)

    def keep(self) -> None:
        """Returns early, and the connection stays alive in a reference cycle."""
        connection = self.pool.getconn()
        connection.execute(COUNT).fetchone()
        Session(connection)

    def keep_in_thread(self) -> None:
        """The same mistake, for a request that a thread of its own answers."""
        Session(self.pool.getconn())

    def think(self) -> None:
        """Holds a connection idle until somebody says a word, then gives it back."""
        connection = self.pool.getconn()
        print(f"think uses server pid {connection.info.backend_pid}")
        connection.execute(COUNT).fetchone()
        print("thinking")
        input()
        self.pool.putconn(connection)

    def listen(self) -> None:
        """Holds a connection for long, and thinks on a second one meanwhile."""
        connection = self.pool.getconn()
        self.think()
        self.pool.putconn(connection)

    def sleep(self) -> None:
        """Correct, and slow in the server."""
        with self.pool.connection() as connection:
            connection.execute("SELECT pg_sleep(0.4)")
