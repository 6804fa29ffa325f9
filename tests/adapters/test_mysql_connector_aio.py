"""The pool and the direct connections of mysql-connector-python for asyncio."""

import asyncio
import contextvars
import functools
import gc
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from mysql.connector import aio, errors
from mysql.connector.aio.pooling import MySQLConnectionPool, PooledMySQLConnection

from otel_connleak import open_holds
from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.mariadb import Database
from tests.support.reports import Reports, held

# The driver sends the current span along, if there is one; MariaDB has nothing to send it in.
pytestmark = pytest.mark.filterwarnings("ignore:This version of the server does not support Query Attributes")

type Execute = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine in a task of its own."""


@pytest.fixture
def execute(runner: asyncio.Runner) -> Iterator[Execute]:
    """A function that runs a coroutine; at the end connections are collected while the loop is open."""
    yield lambda coroutine: runner.run(coroutine, context=contextvars.copy_context())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        runner.run(asyncio.sleep(0))


class ConnectorLibrary(Library):
    """What the pool and direct connections have in common."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        async with await connection.cursor() as cursor:
            await cursor.execute(query)
            await cursor.fetchall()

    @contextmanager
    def dropping(self) -> Iterator[None]:
        """From Python 3.13 on asyncio warns of a stream that was dropped and is open."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            yield

    def facts(self, connection: Any) -> dict[str, Any]:
        """What the driver tells."""
        return {
            "db.system.name": "mariadb",
            "db.namespace": self.database.name,
            "server.address": self.database.server.socket,
            "connleak.server.pid": connection.connection_id,
        }


class Direct(ConnectorLibrary):
    """``mysql.connector.aio.connect``."""

    connection_type = aio.MySQLConnection

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(aio.connect, **self.database.parameters)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        release: Callable[[Any], Any] = aio.MySQLConnection.close
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask for a database that is not there."""
        return functools.partial(aio.connect, **self.database.parameters | {"database": "nowhere"})


class Pooled(ConnectorLibrary):
    """``get_connection`` of a pool."""

    connection_type = PooledMySQLConnection
    pool = "orders"
    maximum = 2

    def __init__(self, database: Database, connections: Any) -> None:
        super().__init__(database)
        self.connections = connections
        self.empty = MySQLConnectionPool(pool_name="empty", pool_size=1)

    @property
    def acquire(self) -> Callable[[], Any]:
        """Get a connection."""
        acquire: Callable[[], Any] = self.connections.get_connection
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Give it back."""
        release: Callable[[Any], Any] = PooledMySQLConnection.close
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask a pool that is exhausted."""
        refuse: Callable[[], Any] = self.empty.get_connection
        return refuse


class TestConnection(AsyncContract):
    """``mysql.connector.aio.connect``."""

    @pytest.fixture
    def library(self, database: Database, execute: Execute) -> Library:
        """Direct connections."""
        return Direct(database)


@pytest.fixture
def pool(database: Database, execute: Execute) -> Iterator[MySQLConnectionPool]:
    """A pool of two connections."""
    pool = MySQLConnectionPool(pool_name="orders", pool_size=2, **database.parameters)
    execute(pool.initialize_pool())
    yield pool
    execute(pool.close_pool())


class TestPool(AsyncContract):
    """``MySQLConnectionPool.get_connection``."""

    @pytest.fixture
    def library(self, database: Database, pool: MySQLConnectionPool) -> Library:
        """A pool of two connections."""
        return Pooled(database, pool)


async def end_session(database: Database, connection: Any) -> None:
    """End the server's side of a connection."""
    await asyncio.to_thread(database.server.kill, connection.connection_id)


# --- direct connections ------------------------------------------------------------------------------------


def test_ways_to_connect(database: Database, execute: Execute, reports: Reports) -> None:
    """Each way to connect makes one hold, which ends with each way to close."""

    async def lists() -> None:
        async with await aio.connect(**database.parameters) as connection:
            await connection.cmd_query("COMMIT")
        async with aio.MySQLConnection(**database.parameters):
            assert len(open_holds()) == 1
        for close in ("disconnect", "shutdown"):
            await getattr(await aio.connect(**database.parameters), close)()

    execute(lists())

    assert reports.hold_names() == ["test_ways_to_connect.lists"] * 4
    assert open_holds() == []


def test_by_network(database: Database, execute: Execute, reports: Reports) -> None:
    """Over the network a hold knows the server's address and port."""

    async def lists() -> None:
        async with await aio.connect(**database.by_network | {"ssl_disabled": True}):
            pass

    execute(lists())
    attributes: dict[str, Any] = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == database.server.port


@pytest.mark.parametrize("way", ["reconnect", "ping"])
def test_connects_anew(way: str, database: Database, execute: Execute, reports: Reports) -> None:
    """A connection object that connects anew goes on being held, with another process of the server."""

    async def pings() -> None:
        connection: Any = await aio.connect(**database.parameters)
        first = connection.connection_id
        await end_session(database, connection)
        await (connection.ping(reconnect=True) if way == "ping" else connection.reconnect())
        (hold,) = open_holds()
        assert hold.server_pid == connection.connection_id != first
        await connection.close()

    execute(pings())

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


@pytest.mark.parametrize("notice", ["execute", "is_connected", "ping"])
def test_server_ends_it(notice: str, database: Database, execute: Execute, reports: Reports) -> None:
    """A connection that the server has ended holds nothing once the driver has noticed."""

    async def leaves_it() -> None:
        connection: Any = await aio.connect(**database.parameters)
        Cycle(connection)
        await end_session(database, connection)
        if notice == "is_connected":
            assert not await connection.is_connected()
        else:
            with pytest.raises(errors.Error):
                await (connection.ping() if notice == "ping" else connection.cmd_query("SELECT 1"))

    execute(leaves_it())
    reports.none()

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_unread_result(database: Database, execute: Execute, reports: Reports) -> None:
    """With rows to read the driver says that it is not connected: it is held all the same."""

    async def reads() -> None:
        connection: Any = await aio.connect(**database.parameters)
        async with await connection.cursor() as cursor:
            await cursor.execute("SELECT id FROM customers")
            assert not await connection.is_connected()
            assert held() == 1
            assert len(await cursor.fetchall()) == 3
        await connection.close()

    execute(reads())

    assert len(reports.hold_names()) == 1


# --- the pool ----------------------------------------------------------------------------------------------


def test_pool_connects(database: Database, execute: Execute, reports: Reports) -> None:
    """What the pool connects in advance is no hold; ``async with`` gives a connection back."""

    async def asks() -> None:
        pool = MySQLConnectionPool(pool_name="orders", pool_size=2, **database.parameters)
        await pool.initialize_pool()
        assert open_holds() == []
        async with await pool.get_connection() as connection:
            assert [hold.pool for hold in open_holds()] == ["orders"]
            await connection.cmd_query("COMMIT")
        await pool.close_pool()

    execute(asks())

    assert open_holds() == []
    assert reports.hold_names() == ["test_pool_connects.asks"]


def test_pool_connects_anew(
    database: Database, pool: MySQLConnectionPool, execute: Execute, reports: Reports
) -> None:
    """The pool connects anew what the server has ended: the next hold knows the new process of the server."""

    async def asks() -> Any:
        async with await pool.get_connection() as connection:
            (hold,) = open_holds()
            assert hold.server_pid == connection.connection_id
        assert hold.server_pid is not None
        await asyncio.to_thread(database.server.kill, hold.server_pid)
        return hold.server_pid

    assert len({execute(asks()) for _ in range(4)}) == 4
    assert open_holds() == []


def test_exhausted(pool: MySQLConnectionPool, execute: Execute, reports: Reports) -> None:
    """A pool whose connections are all held refuses, and opens no hold."""

    async def asks() -> None:
        held = [await pool.get_connection() for _ in range(2)]
        with pytest.raises(errors.PoolError, match="pool exhausted"):
            await pool.get_connection()
        assert len(open_holds()) == 2
        for connection in held:
            await connection.close()

    execute(asks())

    assert open_holds() == []


def test_server_ends_pooled(
    database: Database, pool: MySQLConnectionPool, execute: Execute, reports: Reports
) -> None:
    """A connection that the server has ended still has its slot, until it is given back."""

    async def goes_on() -> None:
        async with await pool.get_connection() as connection:
            await end_session(database, connection)
            assert not await connection.is_connected()
            assert len(open_holds()) == 1

    execute(goes_on())
    reports.none()

    assert open_holds() == []


def test_given_to_the_pool(
    database: Database, pool: MySQLConnectionPool, execute: Execute, reports: Reports
) -> None:
    """A direct connection that is given to a pool is the pool's from then on."""

    async def gives() -> None:
        await pool._cnx_queue.get_nowait().close()
        connection: Any = await aio.connect(**database.parameters)
        await pool.add_connection(connection)
        assert open_holds() == []

    execute(gives())

    assert reports.hold_names() == ["test_given_to_the_pool.gives"]


def test_session_cannot_be_reset(pool: MySQLConnectionPool, execute: Execute, reports: Reports) -> None:
    """Where a session cannot be reset the pool connects anew when it is given back: that is no hold."""

    async def answers(*_credentials: object) -> bool:
        return False

    async def refuses(*_credentials: object) -> None:
        raise errors.ProgrammingError

    async def asks() -> None:
        connection: Any = await pool.get_connection()
        old = connection._cnx
        old.cmd_reset_connection = answers  # as a server before 5.7.3 does
        old.cmd_change_user = refuses
        first = old.connection_id
        await connection.close()
        assert old.connection_id != first

    execute(asks())

    assert open_holds() == []
    assert reports.hold_names() == ["test_session_cannot_be_reset.asks"]
