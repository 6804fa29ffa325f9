"""The pool and the direct connections of aiomysql."""

import asyncio
import contextvars
import functools
import gc
import warnings
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager
from typing import Any

import aiomysql
import pymysql
import pytest
from aiomysql import sa
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.mariadb import Database
from tests.support.reports import NEVER, Reports

type Execute = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine in a task of its own."""


def parameters(database: Database) -> dict[str, Any]:
    """Connects aiomysql, which calls the database by another name."""
    return {"unix_socket": database.server.socket, "user": "root", "db": database.name}


@pytest.fixture
def execute(runner: asyncio.Runner) -> Iterator[Execute]:
    """A function that runs a coroutine; at the end connections are collected while the loop is open."""
    yield lambda coroutine: runner.run(coroutine, context=contextvars.copy_context())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
        runner.run(asyncio.sleep(0))


class AiomysqlLibrary(Library):
    """What the pool and direct connections have in common."""

    connection_type = aiomysql.Connection

    def __init__(self, database: Database) -> None:
        self.database = database

    async def execute(self, connection: Any, query: str) -> Any:
        """Run a query in a transaction: aiomysql does not take note of one that a SELECT opens."""
        await connection.begin()
        async with connection.cursor() as cursor:
            await cursor.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What aiomysql tells."""
        return {
            "db.system.name": "mariadb",
            "db.namespace": self.database.name,
            "server.address": self.database.server.socket,
            "connleak.server.pid": connection.thread_id(),
        }


class Direct(AiomysqlLibrary):
    """``aiomysql.connect``."""

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(aiomysql.connect, **parameters(self.database))

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        release: Callable[[Any], Any] = aiomysql.Connection.ensure_closed
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(aiomysql.connect, unix_socket="/nowhere", user="root")

    def dropping(self) -> AbstractContextManager[Any]:
        """It warns of a connection that was dropped and is open."""
        return pytest.warns(ResourceWarning, match="Unclosed connection")


class Pooled(AiomysqlLibrary):
    """``acquire`` and ``release`` of a pool."""

    maximum = 2
    reuses = True

    def __init__(self, database: Database, connections: Any, closed: Any) -> None:
        super().__init__(database)
        self.pool = f"{database.server.socket}/{database.name}"
        self.connections = connections
        self.closed = closed

    @property
    def acquire(self) -> Callable[[], Any]:
        """Acquire a connection."""
        acquire: Callable[[], Any] = self.connections.acquire
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Release it."""
        release: Callable[[Any], Any] = self.connections.release
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask a pool that is closed."""
        refuse: Callable[[], Any] = self.closed.acquire
        return refuse

    def reference(self, connection: Any) -> Callable[[], Any]:
        """The pool keeps it."""
        return lambda: None


class TestConnection(AsyncContract):
    """``aiomysql.connect``."""

    @pytest.fixture
    def library(self, database: Database, execute: Execute) -> Library:
        """Direct connections."""
        return Direct(database)


@pytest.fixture
def pool(database: Database, execute: Execute) -> Iterator[Any]:
    """A pool of one connection, which may grow to two."""
    pool = execute(create_pool(database))
    yield pool
    pool.terminate()
    execute(pool.wait_closed())


async def create_pool(database: Database, **settings: Any) -> Any:
    """Make a pool, of one connection or two if nothing else is said."""
    return await aiomysql.create_pool(**parameters(database) | {"minsize": 1, "maxsize": 2} | settings)


class TestPool(AsyncContract):
    """``Pool.acquire``."""

    @pytest.fixture
    def library(self, database: Database, execute: Execute, pool: Any) -> Library:
        """The pool, and one that is closed."""
        closed = execute(create_pool(database, minsize=0))
        closed.close()
        return Pooled(database, pool, closed)


async def count(connection: Any) -> None:
    """Runs a query."""
    async with connection.cursor() as cursor:
        await cursor.execute("SELECT count(*) FROM customers")


async def end_session(database: Database, connection: Any) -> None:
    """End the server's side of a connection, and let the connection notice."""
    await asyncio.to_thread(database.server.kill, connection.thread_id())
    with pytest.raises(pymysql.err.OperationalError):
        await count(connection)


# --- the pool ----------------------------------------------------------------------------------------------


def test_ways_to_acquire(pool: Any, execute: Execute, reports: Reports) -> None:
    """``await`` and ``async with`` make one hold each, by whoever wrote them."""

    async def lists() -> None:
        async with pool.acquire() as connection:
            await count(connection)
        connection = await pool.acquire()
        try:
            await count(connection)
        finally:
            await pool.release(connection)

    execute(lists())

    assert reports.hold_names() == ["test_ways_to_acquire.lists"] * 2
    assert open_holds() == []


def test_pool_connects(database: Database, execute: Execute, reports: Reports) -> None:
    """What the pool connects in advance, or for one who asks, is no hold but that one's."""

    async def asks() -> None:
        async with aiomysql.create_pool(**parameters(database), minsize=2, maxsize=3) as pool:
            assert open_holds() == []
            held = [await pool.acquire() for _ in range(3)]
            assert [hold.pool is None for hold in open_holds()] == [False] * 3
            for connection in held:
                pool.release(connection)

    execute(asks())

    assert len(reports.hold_names()) == 3


def test_exhausted(
    database: Database, execute: Execute, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    """Who waits in vain gets the library's timeout and holds nothing; a report says how many wait."""
    reports = instrument(overdue_after=0.2)
    caplog.set_level("WARNING", "otel_connleak")

    async def waits() -> None:
        pool = await create_pool(database, maxsize=1)
        connection = await pool.acquire()
        waiting = [asyncio.create_task(asyncio.wait_for(pool.acquire(), 30)) for _ in range(3)]
        await asyncio.to_thread(reports.leak)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(pool.acquire(), 0.01)
        pool.release(connection)
        pool.close()
        await pool.wait_closed()

    execute(waits())

    assert "1/1 used, 3 waiting" in caplog.text
    assert len(reports.hold_names()) == 1


def test_released_in_transaction(pool: Any, execute: Execute, reports: Reports) -> None:
    """The pool closes a connection that is released in a transaction: it was released all the same."""

    async def forgets_to_commit() -> Any:
        connection = await pool.acquire()
        await connection.begin()
        await pool.release(connection)
        return connection

    assert execute(forgets_to_commit()).closed
    reports.none()

    assert len(reports.hold_names()) == 1


def test_closed_in_place_of_released(pool: Any, execute: Execute, reports: Reports) -> None:
    """To close a pooled connection does not give its slot back."""

    async def closes() -> None:
        connection = await pool.acquire()
        connection.close()

    execute(closes())
    leak = reports.leak()

    assert leak.function.endswith("closes")
    assert leak.certainty == "confirmed"
    assert pool.size == 1


def test_closed_and_released(pool: Any, execute: Execute, reports: Reports) -> None:
    """Both is correct."""

    async def closes() -> None:
        async with pool.acquire() as connection:
            connection.close()

    execute(closes())
    reports.none()

    assert len(reports.hold_names()) == 1


def test_terminated(pool: Any, execute: Execute, reports: Reports) -> None:
    """A pool that is terminated has closed what was held: its release later on is one more, and harmless."""

    async def terminates() -> None:
        connection = await pool.acquire()
        pool.terminate()
        assert open_holds() == []
        await pool.release(connection)

    execute(terminates())
    execute(pool.wait_closed())
    reports.none()

    assert len(reports.hold_names()) == 1


def test_released_to_another_pool(database: Database, pool: Any, execute: Execute, reports: Reports) -> None:
    """A release that the pool refuses is none."""

    async def confuses() -> None:
        other = await create_pool(database, minsize=0)
        connection = await pool.acquire()
        with pytest.raises(AssertionError):
            other.release(connection)
        assert len(open_holds()) == 1
        pool.release(connection)

    execute(confuses())

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_server_ends_pooled(database: Database, pool: Any, execute: Execute, reports: Reports) -> None:
    """A connection that the server has ended still has its slot, until it is released."""

    async def goes_on() -> None:
        async with pool.acquire() as connection:
            await end_session(database, connection)
            assert len(open_holds()) == 1

    execute(goes_on())
    reports.none()

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_unread_result(pool: Any, execute: Execute, instrument: Instrument) -> None:
    """A connection that only the pool and its own unread result refer to is dropped: reported at once."""
    reports = instrument(grace=NEVER)

    async def reads_one() -> None:
        connection = await pool.acquire()
        cursor = await connection.cursor(aiomysql.SSCursor)
        await cursor.execute("SELECT id FROM customers")
        assert await cursor.fetchone() == (1,)

    execute(reads_one())
    leak = reports.leak()

    assert leak.function.endswith("reads_one")
    assert leak.certainty == "confirmed"


def test_cursor_keeps_connection(pool: Any, execute: Execute, reports: Reports) -> None:
    """Who has a cursor has its connection."""
    cursors: list[Any] = []

    async def opens() -> None:
        connection = await pool.acquire()
        cursors.append(await connection.cursor())

    async def closes() -> None:
        await opens()
        await asyncio.to_thread(reports.none)
        pool.release(cursors.pop().connection)

    execute(closes())

    assert reports.leaks() == []


def test_pool_of_its_sqlalchemy_engine(database: Database, execute: Execute, reports: Reports) -> None:
    """The engine for SQLAlchemy that it has itself acquires from a pool, for whoever asks it."""

    async def lists() -> None:
        async with sa.create_engine(**parameters(database)) as engine, engine.acquire():
            (hold,) = open_holds()
            assert hold.pool is not None

    execute(lists())

    # To make the engine it has asked the server for its version, with a connection of the pool.
    assert reports.hold_names() == ["test_pool_of_its_sqlalchemy_engine.lists"] * 2
    assert open_holds() == []


# --- direct connections ------------------------------------------------------------------------------------


def test_ways_to_connect(database: Database, execute: Execute, reports: Reports) -> None:
    """``await`` and ``async with`` make one hold each, which ends with either way to close."""

    async def lists() -> None:
        async with aiomysql.connect(**parameters(database)) as connection:
            await count(connection)
        connection = await aiomysql.connect(**parameters(database))
        connection.close()
        async with await aiomysql.connect(**parameters(database)):
            pass

    execute(lists())

    assert reports.hold_names() == ["test_ways_to_connect.lists"] * 3
    assert open_holds() == []


def test_by_network(database: Database, execute: Execute, reports: Reports) -> None:
    """Over the network a hold knows the server's address and port."""

    async def lists() -> None:
        async with aiomysql.connect(host="127.0.0.1", port=database.server.port, user="root"):
            pass

    execute(lists())
    attributes: dict[str, Any] = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == database.server.port
    assert "db.namespace" not in attributes


def test_connects_anew(database: Database, execute: Execute, reports: Reports) -> None:
    """A connection object that connects anew goes on being held, with another process of the server."""

    async def pings() -> None:
        connection = await aiomysql.connect(**parameters(database))
        first = connection.thread_id()
        await asyncio.to_thread(database.server.kill, first)
        await connection.ping()
        (hold,) = open_holds()
        assert hold.server_pid == connection.thread_id() != first
        connection.close()

    execute(pings())

    assert len(reports.hold_names()) == 1


def test_cannot_connect_anew(database: Database, execute: Execute, reports: Reports) -> None:
    """Where that fails nothing is held any more."""

    async def pings() -> None:
        connection = await aiomysql.connect(**parameters(database))
        await asyncio.to_thread(database.server.kill, connection.thread_id())
        connection._unix_socket = "/nowhere"
        with pytest.raises(pymysql.err.OperationalError):
            await connection.ping()
        assert open_holds() == []

    execute(pings())

    assert len(reports.hold_names()) == 1


def test_used_after_the_end(database: Database, execute: Execute, reports: Reports) -> None:
    """A connection that the server has ended is closed: whoever pings it to life again holds it."""

    async def pings() -> None:
        connection = await aiomysql.connect(**parameters(database))
        await end_session(database, connection)
        assert open_holds() == []
        await connection.ping()
        assert len(open_holds()) == 1
        await connection.ping()
        await connection.ensure_closed()

    execute(pings())

    assert open_holds() == []
    assert len(reports.hold_names()) == 2


def test_cancelled(database: Database, execute: Execute, reports: Reports) -> None:
    """A connection whose query is cancelled is closed: nothing is held, whoever still refers to it."""

    async def sleeps() -> None:
        connection = await aiomysql.connect(**parameters(database))
        Cycle(connection)
        async with connection.cursor() as cursor:
            await cursor.execute("SELECT sleep(30)")

    async def gives_up() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sleeps(), 0.2)

    execute(gives_up())
    reports.none()

    assert open_holds() == []


def test_below_sqlalchemy(database: Database, execute: Execute, reports: Reports) -> None:
    """What SQLAlchemy connects is no direct connection of the application's."""

    async def lists() -> None:
        engine = create_async_engine("mysql+aiomysql://", connect_args=parameters(database))
        async with engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
            assert [hold for hold in open_holds() if hold.pool is None] == []
        await engine.dispose()

    execute(lists())
    reports.none()
