"""A statement that writes, and has changed no row, loses nothing: the driver tells, not the server."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
import sqlalchemy
from psycopg.conninfo import conninfo_to_dict

from tests.support.reports import Reports
from tests.support.telemetry import Telemetry

RENAME = "UPDATE customers SET name = 'new' WHERE id = {}"
NOBODY, SOMEBODY = 99, 1


def with_psycopg(dsn: str, number: int) -> None:
    """Forget the commit, with psycopg."""
    with contextlib.closing(psycopg.connect(dsn)) as connection:
        connection.execute(RENAME.format(number))


def with_psycopg_many(dsn: str, number: int) -> None:
    """The same by ``executemany``."""
    with contextlib.closing(psycopg.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.executemany(RENAME.format("%s"), [[NOBODY], [number]])


def with_psycopg_async(dsn: str, number: int) -> None:
    """The same with asyncio."""

    async def rename() -> None:
        connection = await psycopg.AsyncConnection.connect(dsn)
        await connection.execute(RENAME.format(number))
        await connection.close()

    asyncio.run(rename())


def with_psycopg2(dsn: str, number: int) -> None:
    """Forget the commit, with psycopg2."""
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute(RENAME.format(number))


def with_asyncpg(dsn: str, number: int) -> None:
    """Forget the commit of what was begun by hand, with asyncpg."""

    async def rename() -> None:
        about = conninfo_to_dict(dsn)
        options = str(about["options"]).partition("search_path=")[2]
        connection = await asyncpg.connect(
            host=str(about["host"]), user=str(about["user"]), database=str(about["dbname"]),
            server_settings={"search_path": options},
        )  # fmt: skip
        await connection.transaction().start()
        await connection.execute(RENAME.format(number))
        await connection.close()

    asyncio.run(rename())


def with_sqlalchemy(dsn: str, number: int) -> None:
    """Forget the commit, with SQLAlchemy."""
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(dsn))
    with engine.connect() as connection:
        connection.execute(sqlalchemy.text(RENAME.format(number)))
    engine.dispose()


WAYS = [with_psycopg, with_psycopg_async, with_psycopg2, with_asyncpg, with_sqlalchemy]


@pytest.mark.parametrize("rename", WAYS)
def test_no_rows(rename: Callable[[str, int], None], dsn: str, telemetry: Telemetry) -> None:
    """Nothing is reported where no row was changed, and the function that changed one is."""
    reports = Reports(telemetry)
    with telemetry.instrumented(grace=0.1):
        rename(dsn, NOBODY)
        reports.settle()
        assert reports.leaks() == []
        rename(dsn, SOMEBODY)
        leak = reports.leak()

    assert (leak.evidence, leak.attributes["connleak.transaction.writes"]) == ({"discarded"}, 1)


def test_many_at_once(dsn: str, telemetry: Telemetry) -> None:
    """A pipeline has its results later than the call: there a statement that writes counts as a write."""
    reports = Reports(telemetry)
    with telemetry.instrumented(grace=0.1):
        with_psycopg_many(dsn, SOMEBODY)
        assert reports.leak().evidence == {"discarded"}


def test_no_rows_of_sqlite(tmp_path: Path, telemetry: Telemetry) -> None:
    """The same for sqlite3, which has begun a transaction all the same."""
    reports, path = Reports(telemetry), tmp_path / "shop.db"
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE customers AS SELECT 1 AS id, 'old' AS name")

    def rename(number: int) -> None:
        connection: Any = sqlite3.connect(path)
        connection.execute(RENAME.format(number))
        connection.close()

    with telemetry.instrumented(grace=0.1):
        rename(NOBODY)
        reports.settle()
        assert reports.leaks() == []
        rename(SOMEBODY)
        assert reports.leak().evidence == {"discarded"}
