"""Cursors of PyMySQL and aiomysql whose rows are read one by one: until then nothing else can be asked."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import aiomysql
import pymysql
import pytest
from pymysql.cursors import SSCursor

from tests.support.mariadb import Database
from tests.support.reports import Reports
from tests.support.transactions import closed_cursors, open_cursors

NAMES = "SELECT name FROM customers"


def reads_all(cursor: Any) -> None:
    """To the end."""
    cursor.execute(NAMES)
    assert len(cursor.fetchall()) == 3


def reads_one(cursor: Any) -> None:
    """Closes with the rest unread."""
    cursor.execute(NAMES)
    assert cursor.fetchone() is not None


def reads_in_parts(cursor: Any) -> None:
    """Asks for more than there are."""
    cursor.execute(NAMES)
    assert len(cursor.fetchmany(2)) == 2
    assert len(open_cursors()) == 1
    assert len(cursor.fetchmany(2)) == 1


@pytest.mark.parametrize("use", [reads_all, reads_one, reads_in_parts])
def test_closed(use: Callable[[Any], None], database: Database, reports: Reports) -> None:
    """One hold, of the function that has asked, until the rows are read or the cursor is closed."""
    with pymysql.connect(**database.parameters) as connection, connection.cursor(SSCursor) as cursor:
        use(cursor)
        cursor.close()
        assert open_cursors() == []
        assert closed_cursors(reports) == [use.__name__]
    reports.none()


def test_buffered(database: Database, reports: Reports) -> None:
    """A cursor whose rows the driver has read is worth no report."""
    with pymysql.connect(**database.parameters) as connection:
        connection.cursor().execute(NAMES)
        assert open_cursors() == []
    with pymysql.connect(**database.parameters) as connection, connection.cursor(SSCursor) as cursor:
        cursor.execute("UPDATE customers SET name = 'renamed'")
        assert open_cursors() == []
        connection.rollback()
    assert closed_cursors(reports) == []


def test_left_open(database: Database, reports: Reports) -> None:
    """A function may leave its cursor to whoever has the connection: the next query reads what is left."""
    left: list[Any] = []

    def leave_it() -> None:
        left.append(connection.cursor(SSCursor))
        left[0].execute(NAMES)

    with contextlib.closing(pymysql.connect(autocommit=True, **database.parameters)) as connection:
        leave_it()
        assert open_cursors() == ["leave_it"]
        reports.none()
        with pytest.warns(UserWarning, match="Previous unbuffered result was left incomplete"):
            connection.cursor().execute(NAMES)
        assert open_cursors() == []
        left.pop().close()

    assert closed_cursors(reports) == ["leave_it"]


def test_async(database: Database, runner: asyncio.Runner, reports: Reports) -> None:
    """The same with aiomysql."""
    parameters = {"unix_socket": database.server.socket, "user": "root", "db": database.name}

    async def read() -> None:
        async with (
            aiomysql.connect(**parameters) as connection,
            connection.cursor(aiomysql.SSCursor) as cursor,
        ):
            await cursor.execute(NAMES)
            assert open_cursors() == ["read"]
            assert await cursor.fetchone() is not None
            assert len(await cursor.fetchall()) == 2
            assert open_cursors() == []

    runner.run(read())

    assert closed_cursors(reports) == ["read"]
    reports.none()
