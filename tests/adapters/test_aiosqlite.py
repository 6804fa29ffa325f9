"""Connections of aiosqlite."""

import asyncio
import functools
import gc
import threading
import warnings
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
import sqlalchemy
from sqlalchemy.ext.asyncio import create_async_engine

from otel_connleak import function_stats, leaks, open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.shop import state
from tests.adapters.shop.customers import COUNT
from tests.adapters.test_sqlite3 import shop
from tests.support.reports import Reports
from tests.support.waiting import wait_until

connect_before = aiosqlite.connect
"""The function as an application has it that imported it before the instrumentation started."""


def collect() -> None:
    """Let the garbage collector find what was dropped, of which the driver warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect(0)


def end_of_threads(before: list[threading.Thread]) -> None:
    """Wait until the threads of connections have ended, which must have been told to."""
    for thread in set(threading.enumerate()).difference(before):
        if "_connection_worker_thread" in thread.name:
            thread.join(timeout=10)
            assert not thread.is_alive()


def drops() -> AbstractContextManager[Any]:
    """Aiosqlite warns of a connection that was dropped and is open."""
    return pytest.warns(ResourceWarning, match="was deleted before being closed")


@pytest.fixture
def path(tmp_path: Path, runner: asyncio.Runner) -> Iterator[str]:
    """The file of a database; at the end the threads of all its connections end, while there is a loop."""
    path = tmp_path / "shop.db"
    path.write_bytes(shop())
    before = threading.enumerate()
    yield str(path)
    collect()
    end_of_threads(before)


class Direct(Library):
    """``aiosqlite.connect``."""

    connection_type = aiosqlite.Connection

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect: what it gives is to be awaited."""
        return functools.partial(aiosqlite.connect, self.path)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return aiosqlite.Connection.close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where there is no folder."""
        return functools.partial(aiosqlite.connect, f"{self.path}/no/folder.db")

    async def execute(self, connection: Any, query: str) -> None:
        """Run a query, in a transaction: a query alone begins none."""
        await connection.execute("BEGIN")
        await connection.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """The database; there is no server."""
        return {"db.system.name": "sqlite", "db.namespace": self.path}

    def reference(self, connection: Any) -> Callable[[], Any]:
        """It goes when its thread has closed it."""
        reference = weakref.ref(connection)
        return lambda: None if wait_until(lambda: reference() is None, "its end") else reference()

    def dropping(self) -> AbstractContextManager[Any]:
        """See `drops`."""
        return drops()


class TestConnection(AsyncContract):
    """``aiosqlite.connect``."""

    @pytest.fixture
    def library(self, path: str) -> Library:
        """Direct connections."""
        return Direct(path)


@pytest.fixture
def run(runner: asyncio.Runner) -> Callable[..., Any]:
    """Runs a coroutine."""
    return runner.run


def test_async_with(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """``async with`` closes; the connection of sqlite3 within is no hold of its own."""

    async def count() -> Any:
        async with connect_before(path) as connection:
            assert len(open_holds()) == 1
            async with connection.execute(COUNT) as cursor:
                return await cursor.fetchone()

    assert run(count()) == (3,)
    reports.none()
    attributes = dict(reports.telemetry.span("hold").attributes or {})

    assert reports.hold_names() == ["test_async_with.count"]
    assert attributes["connleak.statements"] == 3  # with the close of the cursor


def test_helper(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """A context manager of the application's acquires for the function that uses it."""

    @asynccontextmanager
    async def database() -> AsyncIterator[aiosqlite.Connection]:
        async with aiosqlite.connect(path) as connection:
            await connection.execute("PRAGMA foreign_keys=ON")
            yield connection

    async def count() -> Any:
        async with database() as connection:
            return await connection.execute_fetchall(COUNT)

    assert run(count()) == [(3,)]
    assert reports.hold_names() == ["test_helper.count"]


def test_stop(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """``stop`` closes too."""

    async def leave() -> None:
        connection = await aiosqlite.connect(path)
        await connection.stop()  # type: ignore[misc]  # it gives a future, while there is a loop

    run(leave())
    reports.none()

    assert reports.hold_names() == ["test_stop.leave"]
    assert open_holds() == []


def test_cancelled_while_it_connects(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """Who is cancelled while he waits for a connection has none."""

    async def give_up() -> None:
        task = asyncio.ensure_future(connect())
        await asyncio.sleep(0)  # it waits now
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    async def connect() -> Any:
        return await aiosqlite.connect(path)

    before = threading.enumerate()
    run(give_up())
    end_of_threads(before)
    run(asyncio.sleep(0))  # for what its thread has connected after all, and nobody closes
    collect()
    reports.none()

    assert open_holds() == []
    assert reports.hold_names() == []


def test_kept_by_its_thread(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """A connection that only its own thread refers to, since its last call, is dropped, and says nothing."""

    async def fetch() -> weakref.ref[aiosqlite.Connection]:
        connection = await aiosqlite.connect(path)
        await connection.execute_fetchall(COUNT)
        return weakref.ref(connection)

    reference = run(fetch())
    try:
        leak = reports.leak()
    finally:
        connection = reference()
        assert connection is not None
        run(connection.close())

    assert leak.function.endswith("test_kept_by_its_thread.fetch")
    assert leak.certainty == "confirmed"
    assert leak.attributes["db.query.summary"] == "SELECT … FROM customers"


def test_found_by_the_garbage_collector(path: str, run: Callable[..., Any], instrument: Instrument) -> None:
    """In a cycle it is found late: until then a report says that somebody could release it."""
    reports = instrument(evidence="dropped")

    async def leave_it() -> None:
        connection = await aiosqlite.connect(path)
        state.connections.append(connection)
        connection.itself = connection  # type: ignore[attr-defined]

    run(leave_it())
    reports.none()
    with drops():
        state.connections.clear()
        gc.collect(0)

    assert reports.leak().evidence == {"dropped"}


def test_kept_in_module_state(path: str, run: Callable[..., Any], instrument: Instrument) -> None:
    """One connection in module state is no leak, however long it lies idle."""
    reports = instrument(overdue_after=0.1)

    async def start() -> None:
        state.connections.append(await aiosqlite.connect(path))

    run(start())
    reports.none(after=0.3)

    assert len(open_holds()) == 1
    run(state.connections.pop().close())


def test_engine(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """SQLAlchemy's engine connects on its own account: that is no hold of a function's."""
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    async def count() -> Any:
        async with engine.connect() as connection:
            held = open_holds()
            return await connection.scalar(sqlalchemy.text(COUNT)), held

    async def work() -> Any:
        try:
            return await count()
        finally:
            await engine.dispose()

    result, held = run(work())
    reports.none()

    assert result == 3
    assert [hold for hold in held if hold.pool is None] == []
    assert open_holds() == []


def test_library_that_keeps_connections(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """The same holds for other libraries that are known to keep their connections."""
    namespace: dict[str, Any] = {"__name__": "tortoise.client", "aiosqlite": aiosqlite}
    exec("async def connect(path): return await aiosqlite.connect(path)", namespace)

    async def work() -> None:
        connection = await namespace["connect"](path)
        await connection.close()

    run(work())

    assert function_stats() == []


def test_calls(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """Whatever its thread does is a call."""

    async def work() -> None:
        async with aiosqlite.connect(path) as connection:
            await connection.executemany("INSERT INTO customers VALUES (?)", [("dora",), ("eve",)])
            await connection.commit()
            cursor = await connection.cursor()
            await cursor.execute("SELECT name FROM customers")
            assert len([row async for row in cursor]) == 5  # in two portions, of which the second is empty
            await connection.rollback()

    run(work())

    assert reports.telemetry.span("hold").attributes["connleak.statements"] == 7  # type: ignore[index]


def test_no_statements(path: str, run: Callable[..., Any], instrument: Instrument) -> None:
    """Where statements are not wanted, none is shown."""
    reports = instrument(statements="off")

    async def leave_it() -> None:
        connection = await aiosqlite.connect(path)
        await connection.execute(COUNT)

    with drops():
        run(leave_it())

    assert "db.query.summary" not in reports.leak().attributes
    assert leaks()[0].statement is None


def test_last_statement(path: str, run: Callable[..., Any], reports: Reports) -> None:
    """Fetching is no statement."""

    async def leave_it() -> None:
        connection = await aiosqlite.connect(path)
        cursor = await connection.execute(COUNT)
        await cursor.fetchmany(2)

    with drops():
        run(leave_it())

    assert reports.leak().attributes["db.query.summary"] == "SELECT … FROM customers"
