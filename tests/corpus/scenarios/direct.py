"""An import job without a pool: connections that it makes and closes itself."""

from __future__ import annotations

from collections import deque
from typing import Any

import psycopg

from tests.corpus.stage import Stage

problems: deque[Exception] = deque(maxlen=20)
"""What went wrong lately, for the log of the job: the tracebacks keep what was in the functions."""


class Source:
    """The database that is imported from."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.connection: Any = None

    def open(self) -> None:
        """Connect for the whole import."""
        self.connection = psycopg.connect(self.dsn)

    def read(self) -> list[Any]:
        """Read with the connection of the import."""
        rows: list[Any] = self.connection.execute("SELECT id, name FROM customers").fetchall()
        return rows

    def close(self) -> None:
        """The import is done."""
        self.connection.close()

    def count(self, column: str) -> Any:
        """Never closes its connection when the query raises."""
        connection = psycopg.connect(self.dsn)
        row = connection.execute(f"SELECT count({column}) FROM customers").fetchone()
        connection.close()
        return row

    def latest(self) -> Any:
        """Never closes its connection."""
        connection = psycopg.connect(self.dsn)
        return connection.execute("SELECT max(id) FROM customers").fetchone()

    def check(self, stage: Stage) -> None:
        """Takes its time, and ``with`` closes."""
        with psycopg.connect(self.dsn) as connection:
            stage.wait()
            connection.execute("SELECT 1 FROM customers").fetchall()

    def survive(self, *, close: bool) -> None:
        """The server ends the session while it is used."""
        connection = psycopg.connect(self.dsn)
        with psycopg.connect(self.dsn) as administrator:
            administrator.execute("SELECT pg_terminate_backend(%s, 5000)", (connection.info.backend_pid,))
        try:
            connection.execute("SELECT 1")
        except psycopg.OperationalError:
            if close:
                connection.close()


def closed_late(stage: Stage) -> None:
    """The connection of an import is opened by one method, and closed by another much later."""
    source = Source(stage.dsn)
    source.open()
    source.read()
    stage.wait()
    source.read()
    source.close()


def closed_by_with(stage: Stage) -> None:
    """A ``with`` statement closes a connection that was in use for long."""
    Source(stage.dsn).check(stage)


def closed_twice(stage: Stage) -> None:
    """A connection is closed by hand and then by its ``with``."""
    with psycopg.connect(stage.dsn) as connection:
        connection.execute("SELECT name FROM customers").fetchall()
        stage.wait()
        connection.close()


def never_closed(stage: Stage) -> None:
    """A connection is not closed, and nobody keeps it."""
    source = Source(stage.dsn)
    source.count("id")
    stage.fact()
    source.latest()


def never_closed_and_kept(stage: Stage) -> None:
    """A connection is not closed, and the log of the job keeps the error."""
    source = Source(stage.dsn)
    try:
        source.count("nmae")
    except psycopg.Error as error:
        problems.append(error)
    stage.fact()


def broken_and_closed(stage: Stage) -> None:
    """The server ends the session, and the connection is closed all the same."""
    Source(stage.dsn).survive(close=True)


def broken_and_forgotten(stage: Stage) -> None:
    """The server ends the session: there is nothing left that could be closed."""
    Source(stage.dsn).survive(close=False)


def closed_when_its_source_is_replaced(stage: Stage) -> None:
    """An import opens anew without closing: the first connection is lost, the second is closed."""
    source = Source(stage.dsn)
    source.open()
    source.read()
    replacement = psycopg.connect(stage.dsn)
    stage.fact()
    source.connection = replacement
    source.read()
    source.close()
