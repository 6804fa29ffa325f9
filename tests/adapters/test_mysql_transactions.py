"""Transactions of the drivers of MySQL: when they begin, how they end, and which writes are discarded."""

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import aiomysql
import mysql.connector
import mysql.connector.aio
import pymysql
import pytest
from dbutils.pooled_db import PooledDB
from mysql.connector.aio import pooling as aio_pooling
from mysql.connector.pooling import MySQLConnectionPool
from pymysql.cursors import SSCursor

from otel_connleak import open_holds
from tests.support.mariadb import Database
from tests.support.reports import Reports
from tests.support.transactions import ADD, ended

COUNT = "SELECT count(*) FROM customers"
AGAIN = "INSERT INTO customers (id, name) VALUES (1, 'again')"
"""Is refused."""
NO_EXTENSION = "the C extension of mysql-connector-python cannot be loaded in this process"


def added(database: Database) -> int:
    """How many customers there are on the server beyond the first three."""
    return int(database.server.execute(f"SELECT count(*) FROM {database.name}.customers")[0][0]) - 3


def outcomes(reports: Reports) -> list[tuple[str, str, int]]:
    """The transactions that have ended: function, outcome, writes."""
    return [(function, outcome, writes) for function, outcome, _, writes in ended(reports)]


def in_transaction() -> bool:
    """Whether a transaction is held."""
    return any(hold.resource == "transaction" for hold in open_holds())


# --- PyMySQL and mysql-connector-python --------------------------------------------------------------------


@pytest.fixture(params=["pymysql", "connector, Python", "connector, C"])
def connect(request: pytest.FixtureRequest, database: Database) -> Callable[[], Any]:
    """A function that connects."""
    if request.param == "pymysql":
        return lambda: pymysql.connect(**database.parameters)
    pure = request.param == "connector, Python"
    if not pure and not mysql.connector.HAVE_CEXT:
        pytest.skip(NO_EXTENSION)
    return lambda: mysql.connector.connect(use_pure=pure, **database.parameters)


def run(connection: Any, statement: str = ADD) -> None:
    """Run a statement, and read its rows."""
    with contextlib.closing(connection.cursor()) as cursor:
        cursor.execute(statement)
        if cursor.description:
            cursor.fetchall()


def commits(connection: Any) -> None:
    """Writes, and commits."""
    run(connection, COUNT)
    run(connection)
    connection.commit()


def commits_by_statement(connection: Any) -> None:
    """The same, in words."""
    run(connection)
    run(connection, "COMMIT")


def commits_by_the_way(connection: Any) -> None:
    """What changes the schema commits."""
    run(connection)
    run(connection, "CREATE TABLE parts (id int)")


def rolls_back(connection: Any) -> None:
    """Writes, and thinks better of it."""
    run(connection)
    connection.rollback()


def reads(connection: Any) -> None:
    """Reads, and leaves the rest to the server."""
    run(connection, COUNT)


def is_refused(connection: Any) -> None:
    """Writes nothing, but tries."""
    run(connection, COUNT)
    with contextlib.suppress(pymysql.err.IntegrityError, mysql.connector.IntegrityError):
        run(connection, AGAIN)


def forgets(connection: Any) -> None:
    """Writes, and nobody commits."""
    run(connection)


@pytest.mark.parametrize(
    ("use", "outcome", "writes", "rows"),
    [
        (commits, "committed", 1, 1),
        (commits_by_statement, "committed", 1, 1),
        (commits_by_the_way, "committed", 1, 1),
        (rolls_back, "rolled_back", 1, 0),
        (reads, "rolled_back", 0, 0),
        (is_refused, "rolled_back", 0, 0),
        (forgets, "discarded", 1, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end(
    use: Callable[[Any], None],
    outcome: str,
    writes: int,
    rows: int,
    connect: Callable[[], Any],
    database: Database,
    reports: Reports,
) -> None:
    """One transaction, of the function whose statement has begun it; only what was forgotten is reported."""
    with contextlib.closing(connect()) as connection:
        use(connection)

    assert outcomes(reports) == [("run", outcome, writes)]
    assert added(database) == rows
    assert open_holds() == []
    if outcome == "discarded":
        leak = reports.leak()
        assert "discarded" in leak.evidence
        assert leak.attributes["connleak.transaction.outcome"] == "discarded"
    else:
        reports.none()


def test_no_transaction(connect: Callable[[], Any], database: Database, reports: Reports) -> None:
    """Neither autocommit nor a query that touches no table is a transaction."""
    with contextlib.closing(connect()) as connection:
        run(connection, "SELECT 1")
        run(connection, "SET autocommit = 1")
        run(connection)
        run(connection, COUNT)

    assert outcomes(reports) == []
    assert added(database) == 1
    reports.none()


def test_exception(connect: Callable[[], Any], database: Database, reports: Reports) -> None:
    """An exception that closes the connection is the reason for what is lost."""
    with contextlib.suppress(LookupError), contextlib.closing(connect()) as connection:
        run(connection)
        raise LookupError

    assert outcomes(reports) == [("run", "rolled_back", 1)]
    reports.none()


def test_several(connect: Callable[[], Any], database: Database, reports: Reports) -> None:
    """Each transaction is one of its own; after a commit there is none until the next statement."""
    with contextlib.closing(connect()) as connection:
        commits(connection)
        assert len(open_holds()) == 1
        run(connection, "DELETE FROM customers WHERE id = 4")
        connection.rollback()
        run(connection, "START TRANSACTION")
        connection.commit()

    assert outcomes(reports) == [("run", "committed", 1), ("run", "rolled_back", 1), ("run", "committed", 0)]
    reports.none()


# --- what only one of them has -----------------------------------------------------------------------------


def test_error_after_rows(database: Database, reports: Reports) -> None:
    """An error carries no status: what the rows before it have told is still true."""
    with contextlib.closing(pymysql.connect(**database.parameters)) as connection:
        run(connection, COUNT)
        with pytest.raises(pymysql.err.ProgrammingError):
            run(connection, "SELECT nothing FROM nowhere")
        assert len(open_holds()) == 2
        connection.commit()
        assert len(open_holds()) == 1

    assert outcomes(reports) == [("run", "committed", 0)]


def test_unbuffered(database: Database, reports: Reports) -> None:
    """Rows that are read one by one: the last one tells of the transaction that the first has begun."""
    with contextlib.closing(pymysql.connect(**database.parameters)) as connection:
        with connection.cursor(SSCursor) as cursor:
            cursor.execute("SELECT id FROM customers")
            assert not in_transaction(), "nobody knows yet"
            assert len(cursor.fetchall()) == 3
        assert in_transaction()
        run(connection)
        connection.commit()

    assert [(outcome, writes) for _, outcome, writes in outcomes(reports)] == [("committed", 1)]
    reports.none()


@pytest.mark.parametrize("pure", [True, False])
def test_prepared(pure: bool, database: Database, reports: Reports) -> None:
    """A prepared statement writes when it is run, and each time once."""
    if not pure and not mysql.connector.HAVE_CEXT:
        pytest.skip(NO_EXTENSION)
    with contextlib.closing(mysql.connector.connect(use_pure=pure, **database.parameters)) as connection:
        prepared: Any = connection.cursor(prepared=True)
        for number in (4, 5):
            prepared.execute("INSERT INTO customers (id, name) VALUES (?, 'new')", (number,))
    reports.leak()

    assert outcomes(reports) == [("test_prepared", "discarded", 2)]
    assert added(database) == 0


def test_reset_by_the_application(database: Database, reports: Reports) -> None:
    """A session that begins anew rolls back."""
    with contextlib.closing(mysql.connector.connect(**database.parameters)) as connection:
        run(connection)
        connection.cmd_reset_connection()

    assert outcomes(reports) == [("run", "rolled_back", 1)]
    reports.none()


def test_pool_of_the_connector(database: Database, reports: Reports) -> None:
    """The pool resets a session that is given back: what was not committed is lost."""
    pool = MySQLConnectionPool(pool_name="orders", pool_size=1, **database.parameters)
    with contextlib.closing(pool.get_connection()) as connection:
        commits(connection)
    with contextlib.closing(pool.get_connection()) as connection:
        reads(connection)
    reports.none()
    with contextlib.closing(pool.get_connection()) as connection:
        run(connection, "DELETE FROM customers WHERE id = 4")
    leak = reports.leak()
    pool._remove_connections()

    assert leak.attributes["db.client.connection.pool.name"] == "orders"
    assert [outcome for _, outcome, _ in outcomes(reports)] == ["committed", "rolled_back", "discarded"]
    assert added(database) == 1


def test_dbutils(database: Database, reports: Reports) -> None:
    """DBUtils rolls back what is given back to it."""
    pool = PooledDB(pymysql, 0, 0, 0, 1, **database.parameters)
    for use in (commits, reads, is_refused):
        with contextlib.closing(pool.connection()) as connection:
            use(connection)
    reports.none()
    with contextlib.closing(pool.connection()) as connection:
        run(connection, "DELETE FROM customers WHERE id = 4")
    reports.leak()
    pool.close()

    assert [outcome for _, outcome, _ in outcomes(reports)] == [
        "committed",
        "rolled_back",
        "rolled_back",
        "discarded",
    ]
    assert added(database) == 1


# --- asyncio -----------------------------------------------------------------------------------------------

type Connect = Callable[[], contextlib.AbstractAsyncContextManager[Any]]
"""Connects, and closes at the end of the ``async with`` block."""


@contextlib.asynccontextmanager
async def _direct(connect: Callable[..., Any], close: str, **parameters: Any) -> AsyncIterator[Any]:
    connection = await connect(**parameters)
    try:
        yield connection
    finally:
        closing = getattr(connection, close)()
        if closing is not None:
            await closing


@contextlib.asynccontextmanager
async def _pooled_aiomysql(**parameters: Any) -> AsyncIterator[Any]:
    async with (
        aiomysql.create_pool(minsize=0, maxsize=1, **parameters) as pool,
        pool.acquire() as connection,
    ):
        yield connection


@contextlib.asynccontextmanager
async def _pooled_connector(database: Database) -> AsyncIterator[Any]:
    pool: Any = aio_pooling.MySQLConnectionPool(pool_name="orders", pool_size=1, **database.parameters)
    await pool.initialize_pool()
    try:
        async with await pool.get_connection() as connection:
            yield connection
    finally:
        await pool._remove_connections()


@pytest.fixture(params=["aiomysql", "aiomysql's pool", "connector", "connector's pool"])
def connect_async(request: pytest.FixtureRequest, database: Database) -> Connect:
    """A function that connects."""
    name = str(request.param)
    # aiomysql calls the database by another name.
    parameters = {"unix_socket": database.server.socket, "user": "root", "db": database.name}
    if name == "aiomysql":
        return functools.partial(_direct, aiomysql.connect, "close", **parameters)
    if name == "connector":
        return functools.partial(_direct, mysql.connector.aio.connect, "close", **database.parameters)
    if name == "aiomysql's pool":
        return functools.partial(_pooled_aiomysql, **parameters)
    if not hasattr(aio_pooling, "MySQLConnectionPool"):
        pytest.skip("this version has no pool for asyncio")
    return functools.partial(_pooled_connector, database)


async def run_async(connection: Any, statement: str = ADD) -> None:
    """Run a statement, and read its rows."""
    cursor = connection.cursor()
    async with await cursor if asyncio.iscoroutine(cursor) else cursor as cursor:
        await cursor.execute(statement)
        if cursor.description:
            await cursor.fetchall()


async def commits_async(connection: Any) -> None:
    """Writes, and commits."""
    await run_async(connection, COUNT)
    await run_async(connection)
    await connection.commit()


async def rolls_back_async(connection: Any) -> None:
    """Writes, and thinks better of it."""
    await run_async(connection)
    await connection.rollback()


async def reads_async(connection: Any) -> None:
    """Reads, and leaves the rest to the server."""
    await run_async(connection, COUNT)


async def forgets_async(connection: Any) -> None:
    """Writes, and nobody commits."""
    await run_async(connection)


async def fails_async(connection: Any) -> None:
    """Writes, and fails."""
    await run_async(connection)
    raise LookupError


@pytest.mark.parametrize(
    ("use", "outcome", "writes", "rows"),
    [
        (commits_async, "committed", 1, 1),
        (rolls_back_async, "rolled_back", 1, 0),
        (reads_async, "rolled_back", 0, 0),
        (forgets_async, "discarded", 1, 0),
        (fails_async, "rolled_back", 1, 0),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else None,
)
def test_end_async(
    use: Callable[[Any], Any],
    outcome: str,
    writes: int,
    rows: int,
    connect_async: Connect,
    database: Database,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """The same for asyncio, and for what a pool takes back."""

    async def work() -> None:
        with contextlib.suppress(LookupError):
            async with connect_async() as connection:
                await use(connection)

    runner.run(work())

    assert outcomes(reports) == [("run_async", outcome, writes)]
    assert added(database) == rows
    assert open_holds() == []
    if outcome == "discarded":
        assert "discarded" in reports.leak().evidence
    else:
        reports.none()
