"""Exports that read row by row: cursors whose rows the server keeps until somebody closes them."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg2

from tests.corpus.stage import Stage

NAMES = "SELECT name FROM customers ORDER BY id"

recent_errors: deque[Exception] = deque(maxlen=20)
"""The last errors, for a status page: their tracebacks keep what was in the functions they left."""


class Unprintable(ValueError):
    """This name cannot be printed."""


def first_name(connection: Any) -> Any:
    """Reads one row through a cursor of the server, and forgets to close it."""
    cursor = connection.cursor("names")
    cursor.execute(NAMES)
    return cursor.fetchone()


def first_name_and_close(connection: Any) -> Any:
    """The same, and closes."""
    with connection.cursor("names") as cursor:
        cursor.execute(NAMES)
        return cursor.fetchone()


def first_name_on_hold(connection: Any) -> Any:
    """The same through a cursor that outlives its transaction, and forgets to close it."""
    cursor = connection.cursor("names", withhold=True)
    cursor.execute(NAMES)
    return cursor.fetchone()


def all_names(connection: Any) -> list[Any]:
    """Reads to the end, and does not close."""
    cursor = connection.cursor("names")
    cursor.execute(NAMES)
    rows: list[Any] = cursor.fetchall()
    return rows


def all_names_one_by_one(connection: Any) -> list[Any]:
    """Reads to the end in a loop, and does not close."""
    cursor = connection.cursor("names")
    cursor.execute(NAMES)
    return [name for (name,) in cursor]


def print_names(connection: Any) -> None:
    """An error leaves the loop, and the cursor open."""
    cursor = connection.cursor("names")
    cursor.itersize = 1
    cursor.execute(NAMES)
    for (name,) in cursor:
        raise Unprintable(name)
    cursor.close()


def print_names_and_close(connection: Any) -> None:
    """An error leaves the loop, and ``with`` closes."""
    with connection.cursor("names") as cursor:
        cursor.itersize = 1
        cursor.execute(NAMES)
        for (name,) in cursor:
            raise Unprintable(name)


def open_names(connection: Any) -> Any:
    """A cursor for the caller."""
    cursor = connection.cursor("names")
    cursor.execute(NAMES)
    return cursor


def stream_names(connection: Any) -> Iterator[str]:
    """The names, for a slow reader."""
    with connection.cursor("names") as cursor:
        cursor.itersize = 1
        cursor.execute(NAMES)
        for (name,) in cursor:
            yield name


def first_name_of_client(connection: Any) -> Any:
    """A cursor that has fetched all rows already, and is not closed."""
    cursor = connection.cursor()
    cursor.execute(NAMES)
    return cursor.fetchone()


class Export:
    """Keeps its cursor on itself."""

    def __init__(self, connection: Any) -> None:
        self.cursor = open_names(connection)

    def next(self) -> Any:
        """The next row."""
        return self.cursor.fetchone()

    def close(self) -> None:
        """Close the cursor."""
        self.cursor.close()


def left_open(stage: Stage) -> None:
    """A function leaves a cursor open, and the connection is in use for several graces more."""
    with stage.pool().connection() as connection:
        stage.fact()
        first_name(connection)
        stage.wait()


def left_open_by_psycopg2(stage: Stage) -> None:
    """The same over psycopg2."""
    connection = psycopg2.connect(stage.dsn)
    stage.fact()
    first_name(connection)
    stage.wait()
    connection.close()


def left_open_by_an_error(stage: Stage) -> None:
    """An error leaves the function, and is kept; the connection is in use for several graces more."""
    with stage.pool().connection() as connection:
        try:
            print_names(connection)
        except Unprintable as error:
            recent_errors.append(error)
        stage.fact()
        stage.wait()


def left_on_hold(stage: Stage) -> None:
    """A cursor outlives its transaction, which ends soon."""
    with stage.pool().connection() as connection:
        stage.fact()
        first_name_on_hold(connection)
        connection.commit()
        stage.wait()


def closed_by_with(stage: Stage) -> None:
    """``with`` closes the cursor; the connection is in use for several graces more."""
    with stage.pool().connection() as connection:
        first_name_and_close(connection)
        stage.wait()


def closed_by_with_over_psycopg2(stage: Stage) -> None:
    """The same over psycopg2."""
    connection = psycopg2.connect(stage.dsn)
    first_name_and_close(connection)
    stage.wait()
    connection.close()


def closed_because_of_an_error(stage: Stage) -> None:
    """An error leaves the function and is kept; ``with`` has closed the cursor."""
    with stage.pool().connection() as connection:
        try:
            print_names_and_close(connection)
        except Unprintable as error:
            recent_errors.append(error)
        stage.wait()


def read_to_the_end(stage: Stage) -> None:
    """All rows have been fetched; the connection is in use for several graces more."""
    with stage.pool().connection() as connection:
        assert len(all_names(connection)) == 3
        stage.wait()


def read_to_the_end_by_a_loop(stage: Stage) -> None:
    """The same in a loop."""
    with stage.pool().connection() as connection:
        assert len(all_names_one_by_one(connection)) == 3
        stage.wait()


def read_to_the_end_over_psycopg2(stage: Stage) -> None:
    """The same in a loop over psycopg2."""
    connection = psycopg2.connect(stage.dsn)
    assert len(all_names_one_by_one(connection)) == 3
    stage.wait()
    connection.close()


def returned_to_the_caller(stage: Stage) -> None:
    """A function returns the cursor; its caller reads on after several graces, and closes it."""
    with stage.pool().connection() as connection:
        cursor = open_names(connection)
        stage.wait()
        cursor.fetchone()
        cursor.close()


def kept_on_an_object(stage: Stage) -> None:
    """An object keeps the cursor, and is closed after several graces."""
    with stage.pool().connection() as connection, contextlib.closing(Export(connection)) as export:
        export.next()
        stage.wait()
        export.next()


def read_slowly(stage: Stage) -> None:
    """A generator reads from the cursor, for a reader who takes several graces."""
    with stage.pool().connection() as connection:
        for _name in stream_names(connection):
            stage.wait(1.5)


def closed_by_its_transaction(stage: Stage) -> None:
    """The transaction ends soon after, and the cursor with it."""
    with stage.pool().connection() as connection:
        first_name(connection)
        connection.rollback()
        stage.wait()


def closed_by_its_connection(stage: Stage) -> None:
    """The connection is given back soon after."""
    pool = stage.pool()
    with pool.connection() as connection:
        first_name(connection)
    stage.wait()


def client_cursor(stage: Stage) -> None:
    """The cursor has all of its rows: nothing is lost if nobody closes it."""
    with stage.pool().connection() as connection:
        first_name_of_client(connection)
        stage.wait()


def client_cursor_kept(stage: Stage) -> None:
    """The same, and the cursor is kept for as long as the process lives."""
    with psycopg.connect(stage.dsn) as connection:
        cursor = connection.cursor()
        cursor.execute(NAMES)
        recent_errors.append(Unprintable(cursor))
        stage.wait()
