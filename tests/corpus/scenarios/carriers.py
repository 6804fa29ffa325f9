"""Connections that a function hands on, in whatever carries them; the receiver gives back, or does not."""

from __future__ import annotations

import contextvars
import functools
import gc
import types
from collections.abc import Callable, Iterator
from typing import Any, Self

import psycopg
from psycopg_pool import ConnectionPool

from tests.corpus.stage import Stage

type Pool = ConnectionPool[Any]

current_connection: contextvars.ContextVar[Any] = contextvars.ContextVar("current_connection")
"""The connection of the request."""


class Listing:
    """Customers as they are read; its columns are methods of its own, so that it refers to itself."""

    def __init__(self, pool: Pool, connection: Any) -> None:
        self.pool = pool
        self.connection = connection
        self.columns = {"name": self.names}

    @classmethod
    def of_customers(cls, pool: Pool) -> Self:
        """Opened for the caller."""
        return cls(pool, pool.getconn())

    def names(self) -> list[str]:
        """The names."""
        return [str(row[0]) for row in self.connection.execute("SELECT name FROM customers")]

    def close(self) -> None:
        """Gives the connection back."""
        self.pool.putconn(self.connection)


class Slotted:
    """A connection with a label."""

    __slots__ = ("connection", "label")

    def __init__(self, connection: Any, label: str) -> None:
        self.connection = connection
        self.label = label


class CustomerRepository:
    """Who buys; all of its functions give connections to their callers."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool

    def select_all(self) -> tuple[Any, list[Any]]:
        """The connection, and the rows."""
        connection = self.pool.getconn()
        return connection, connection.execute("SELECT id, name FROM customers").fetchall()

    def describe(self) -> dict[str, Any]:
        """The connection, and what it is connected to."""
        connection = self.pool.getconn()
        return {"database": connection.info.dbname, "connection": connection}

    def open_cursor(self) -> Any:
        """A cursor on all customers; its connection is not named any more."""
        return self.pool.getconn().execute("SELECT id, name FROM customers")

    def open_slotted(self) -> Slotted:
        """An object with slots."""
        return Slotted(self.pool.getconn(), "customers")

    def open_nested(self) -> types.SimpleNamespace:
        """Deep in a result."""
        return types.SimpleNamespace(pair=(1, {"connection": self.pool.getconn()}))

    def open_iterator(self) -> Iterator[Any]:
        """An iterator over one connection."""
        return iter([self.pool.getconn()])

    def open_with_release(self) -> Callable[[], None]:
        """The function that gives it back is what keeps it."""
        connection = self.pool.getconn()
        return lambda: self.pool.putconn(connection)

    def open_with_partial(self) -> Callable[[], None]:
        """The same with ``functools.partial``."""
        return functools.partial(self.pool.putconn, self.pool.getconn())

    def open_into(self, connections: list[Any]) -> None:
        """Puts a connection into the caller's list."""
        connections.append(self.pool.getconn())

    def open_for_request(self) -> None:
        """Puts a connection into the context of the request."""
        current_connection.set(self.pool.getconn())


class CustomerService:
    """Uses the repository."""

    def __init__(self, pool: Pool) -> None:
        self.repository = CustomerRepository(pool)

    def first_name(self) -> str:
        """Takes the rows and forgets the connection beside them."""
        _, rows = self.repository.select_all()
        return str(rows[0][1])

    def database(self) -> str:
        """Takes the name and forgets the connection in the same dictionary."""
        return str(self.repository.describe()["database"])

    def all_cursor(self) -> Any:
        """Hands a cursor on."""
        return self.repository.open_cursor()

    def first_row(self) -> Any:
        """Reads from a cursor, closes it, and forgets that a connection is behind it."""
        cursor = self.all_cursor()
        row = cursor.fetchone()
        cursor.close()
        return row

    def list_names(self) -> list[str]:
        """Does not close the listing."""
        return Listing.of_customers(self.repository.pool).columns["name"]()

    def handle_request(self) -> None:
        """Uses the connection of the request, and leaves it there."""
        self.repository.open_for_request()
        current_connection.get().execute("SELECT 1")

    def warm(self) -> int:
        """Collects connections in a list, and forgets the list."""
        connections: list[Any] = []
        self.repository.open_into(connections)
        return len(connections)

    def refresh(self) -> None:
        """Does not call what gives back."""
        self.repository.open_with_release()


def returned_in_a_tuple(stage: Stage) -> None:
    """The caller gets the connection in a tuple, and forgets it."""
    service = CustomerService(stage.pool())
    stage.fact()
    service.first_name()


def returned_in_a_tuple_and_given_back(stage: Stage) -> None:
    """The caller gets the connection in a tuple, keeps the tuple, and gives back late."""
    repository = CustomerRepository(stage.pool())
    answer = repository.select_all()
    stage.wait()
    repository.pool.putconn(answer[0])


def returned_in_a_dict(stage: Stage) -> None:
    """The caller gets the connection in a dictionary, and reads another key."""
    service = CustomerService(stage.pool())
    stage.fact()
    service.database()


def returned_in_a_dict_and_given_back(stage: Stage) -> None:
    """The caller gets the connection in a dictionary, and gives back late."""
    repository = CustomerRepository(stage.pool())
    description = repository.describe()
    stage.wait()
    repository.pool.putconn(description.pop("connection"))


def returned_in_a_cursor(stage: Stage) -> None:
    """Two functions hand a cursor on; the third reads and closes it, and forgets the connection."""
    service = CustomerService(stage.pool())
    stage.fact()
    service.first_row()


def returned_in_a_cursor_and_given_back(stage: Stage) -> None:
    """The caller reads from a cursor for long, and gives its connection back."""
    service = CustomerService(stage.pool())
    cursor = service.all_cursor()
    stage.wait()
    cursor.fetchall()
    service.repository.pool.putconn(cursor.connection)


def returned_in_an_object(stage: Stage) -> None:
    """A class method makes an object for its caller, which does not close it; nothing collects it."""
    gc.disable()
    CustomerService(stage.pool()).list_names()
    stage.fact()


def returned_in_an_object_and_closed(stage: Stage) -> None:
    """The caller keeps the object for long, and closes it."""
    listing = Listing.of_customers(stage.pool())
    stage.wait()
    listing.close()


def put_into_a_list(stage: Stage) -> None:
    """The connection is put into the caller's list, and lost with it."""
    service = CustomerService(stage.pool())
    stage.fact()
    service.warm()


def put_into_a_list_and_given_back(stage: Stage) -> None:
    """The connection is put into the caller's list, and given back late."""
    repository = CustomerRepository(stage.pool())
    connections: list[Any] = []
    repository.open_into(connections)
    stage.wait()
    repository.pool.putconn(connections.pop())


def in_a_closure_never_called(stage: Stage) -> None:
    """The caller drops the function that would give back."""
    service = CustomerService(stage.pool())
    stage.fact()
    service.refresh()


def in_a_closure(stage: Stage) -> None:
    """The function that gives it back is what keeps it."""
    release = CustomerRepository(stage.pool()).open_with_release()
    stage.wait()
    release()


def in_a_partial(stage: Stage) -> None:
    """``functools.partial`` keeps it."""
    release = CustomerRepository(stage.pool()).open_with_partial()
    stage.wait()
    release()


def in_slots(stage: Stage) -> None:
    """An object with slots keeps it."""
    repository = CustomerRepository(stage.pool())
    kept = repository.open_slotted()
    stage.wait()
    repository.pool.putconn(kept.connection)


def nested_in_results(stage: Stage) -> None:
    """It is returned in a namespace, a tuple and a dictionary."""
    repository = CustomerRepository(stage.pool())
    kept = repository.open_nested()
    stage.wait()
    repository.pool.putconn(kept.pair[1]["connection"])


def in_an_iterator(stage: Stage) -> None:
    """An iterator over one connection keeps it."""
    repository = CustomerRepository(stage.pool())
    kept = repository.open_iterator()
    stage.wait()
    repository.pool.putconn(next(kept))


def in_a_context_variable(stage: Stage) -> None:
    """A context variable keeps it until the end of the request."""
    repository = CustomerRepository(stage.pool())
    repository.open_for_request()
    stage.wait()
    repository.pool.putconn(current_connection.get())


def lost_with_its_context(stage: Stage) -> None:
    """The context of the request ends, and nobody has given its connection back."""
    service = CustomerService(stage.pool())
    context = contextvars.copy_context()
    context.run(service.handle_request)
    stage.fact()
    del context


def direct_connection_handed_on(stage: Stage) -> None:
    """A connection that belongs to no pool is returned to somebody who closes it late."""

    def connect() -> psycopg.Connection[Any]:
        return psycopg.connect(stage.dsn)

    connection = connect()
    stage.wait()
    connection.close()
