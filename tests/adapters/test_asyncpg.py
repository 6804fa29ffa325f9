"""asyncpg keeps the contract, pooled and direct; and what is special about it."""

import asyncio
import contextlib
import functools
import gc
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import asyncpg
import pytest
import sqlalchemy
import wrapt
from asyncpg.pool import PoolConnectionProxy
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy.ext.asyncio import create_async_engine

from otel_connleak import open_holds
from otel_connleak.adapters.sqlalchemy import SQLAlchemyAdapter
from otel_connleak.drivers.asyncpg import DRIVER
from tests.adapters.conftest import Instrument
from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import NEVER, Reports, acquired, held
from tests.support.waiting import until

type Arguments = dict[str, Any]
"""The keyword arguments with which asyncpg connects."""
type MakePool = Callable[..., Any]
"""Makes and opens a pool with settings; it is terminated when the test has ended."""


@pytest.fixture
def arguments(dsn: str) -> Arguments:
    """The keyword arguments that say the same as the connection string."""
    parts = conninfo_to_dict(dsn)
    search_path = str(parts["options"]).partition("search_path=")[2]
    return {
        "host": parts["host"],
        "user": parts["user"],
        "database": parts["dbname"],
        "server_settings": {"search_path": search_path},
    }


class Asyncpg(Library):
    """What pooled and direct connections have in common.

    Args:
        arguments: connect to the server.
    """

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments

    async def execute(self, connection: Any, query: str) -> Any:
        """Run a query in a transaction: asyncpg opens none by itself."""
        await connection.execute("BEGIN")
        return await connection.fetch(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What is known of the server; over a Unix socket there is no port."""
        return {
            "db.system.name": "postgresql",
            "db.namespace": self.arguments["database"],
            "server.address": self.arguments["host"],
            "connleak.server.pid": connection.get_server_pid(),
        }


class Pooled(Asyncpg):
    """``acquire`` and ``release`` of a pool."""

    connection_type = PoolConnectionProxy
    maximum = 2

    def __init__(self, arguments: Arguments, connections: asyncpg.Pool) -> None:
        super().__init__(arguments)
        self.connections = connections
        self.pool = f"{arguments['host']}/{arguments['database']}"

    @property
    def acquire(self) -> Callable[[], Any]:
        """Acquire."""
        acquire: Callable[[], Any] = self.connections.acquire
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Release."""
        release: Callable[[Any], Any] = self.connections.release
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Acquire in no time."""
        return functools.partial(self.connections.acquire, timeout=0)

    def reference(self, connection: Any) -> Callable[[], Any]:
        """A proxy that was dropped stays with its pool."""
        return lambda: None


class Direct(Asyncpg):
    """``asyncpg.connect``."""

    connection_type = asyncpg.Connection

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(asyncpg.connect, **self.arguments)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        release: Callable[[Any], Any] = asyncpg.Connection.close
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(asyncpg.connect, host="127.0.0.1", port=1, user="nobody")

    def dropping(self) -> AbstractContextManager[Any]:
        """Asyncpg warns of a connection that was dropped and is open."""
        return pytest.warns(ResourceWarning, match="unclosed connection")


@pytest.fixture
def make_pool(arguments: Arguments, runner: asyncio.Runner) -> Iterator[MakePool]:
    """A coroutine function that makes pools, of one connection if nothing else is said."""
    pools: list[asyncpg.Pool] = []

    async def make(**settings: Any) -> asyncpg.Pool:
        pools.append(await asyncpg.create_pool(**{"min_size": 1, "max_size": 1} | arguments | settings))
        return pools[-1]

    yield make
    for pool in pools:
        pool.terminate()
    runner.run(asyncio.sleep(0))  # the transports close in the next turn of the loop


@pytest.fixture
def pool(make_pool: MakePool, runner: asyncio.Runner) -> asyncpg.Pool:
    """A pool of one connection, which was made before the instrumentation started."""
    return runner.run(make_pool())


class TestPool(AsyncContract):
    """The pool."""

    @pytest.fixture
    def library(self, arguments: Arguments, make_pool: MakePool, runner: asyncio.Runner) -> Library:
        """A pool of one connection, which may grow to two."""
        return Pooled(arguments, runner.run(make_pool(max_size=2)))


class TestConnection(AsyncContract):
    """Direct connections."""

    @pytest.fixture
    def library(self, arguments: Arguments) -> Library:
        """Direct connections."""
        return Direct(arguments)


connect_before = asyncpg.connect
"""The function as an application has it that imported it before the instrumentation started."""

SOON = 0.3
"""A threshold that is soon over, in seconds."""


async def end_session(arguments: Arguments, connection: Any) -> None:
    """End the server's side of a connection, and let the connection notice."""
    below = getattr(connection, "_con", connection)  # which the pool takes away from its proxy as it ends
    other = await asyncpg.connect(**arguments)
    await other.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await other.close()
    await until(below.is_closed)


# --- pools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["acquire", "fetch", "fetchval", "executemany", "copy_from_query"])
def test_way_to_acquire(way: str, pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """Each way to use a pool makes one hold, of the function that uses it; also what releases by itself."""

    async def use_it() -> None:
        if way == "acquire":
            async with pool.acquire() as connection:
                await connection.execute("SELECT 1")
                assert held() == 1
        elif way == "executemany":
            await pool.executemany("SELECT $1::int", [(1,), (2,)])
        elif way == "copy_from_query":
            await pool.copy_from_query("SELECT 1", output=io.BytesIO())
        else:
            await getattr(pool, way)("SELECT 1")

    runner.run(use_it())
    (span,) = reports.telemetry.spans("hold")

    assert span.name == "hold test_way_to_acquire.use_it"
    assert dict(span.attributes or {})["connleak.statements"] == 1
    assert held() == 0


END = "close terminate server pool release_expired release_worn_out".split()


@pytest.mark.parametrize("end", END)
def test_way_to_release(
    end: str, make_pool: MakePool, arguments: Arguments, runner: asyncio.Runner, reports: Reports
) -> None:
    """Whatever ends a connection of a pool gives its slot back, and ends the hold."""

    async def use_it() -> None:
        pool = await make_pool(max_queries=1 if end == "release_worn_out" else 100)
        connection = await pool.acquire()
        await connection.execute("SELECT 1")
        if end == "close":
            await connection.close()
        elif end == "terminate":
            connection.terminate()
        elif end == "server":
            await end_session(arguments, connection)
        elif end == "pool":
            pool.terminate()
        elif end == "release_expired":
            await pool.expire_connections()
        if end.startswith("release"):
            assert held() == 1
            await pool.release(connection)
        assert held() == 0
        await pool.release(connection)

    runner.run(use_it())
    reports.none()

    assert "test_way_to_release.use_it" in reports.hold_names()


def test_released_while_its_reset_goes_on(
    make_pool: MakePool, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A release is one as soon as the pool has accepted it: the reset goes on after a cancellation."""
    reports = instrument(grace=NEVER)
    go_on = asyncio.Event()

    async def reset(_connection: Any) -> None:
        await go_on.wait()

    async def use_it(pool: asyncpg.Pool) -> None:
        connection = await pool.acquire()
        await pool.release(connection)

    async def cancel_it() -> None:
        pool = await make_pool(reset=reset)
        task = asyncio.create_task(use_it(pool))
        await until(reports.hold_names)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.to_thread(reports.none)
        go_on.set()
        async with pool.acquire():
            pass

    runner.run(cancel_it())
    reports.none()

    assert reports.hold_names()[0] == "test_released_while_its_reset_goes_on.use_it"


def test_reset_that_fails(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """An error of the reset is heard as it is; the pool has closed the connection, and nobody holds it."""

    async def reset(_connection: Any) -> None:
        raise ValueError("reset")

    async def use_it() -> None:
        pool = await make_pool(reset=reset)
        connection = await pool.acquire()
        with pytest.raises(ValueError, match="reset"):
            await pool.release(connection)
        assert held() == 0

    runner.run(use_it())

    assert acquired() == 1


def test_release_that_is_refused(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A connection that another pool refuses to take is held; also where a warning prevented the release."""

    async def use_it() -> None:
        pool, other = await make_pool(), await make_pool()
        connection = await pool.acquire()
        with pytest.raises(asyncpg.InterfaceError, match="not a member"):
            await other.release(connection)
        assert held() == 1
        await connection.add_listener("orders", print)
        with pytest.raises(asyncpg.InterfaceWarning):  # here warnings are errors
            await pool.release(connection)
        assert held() == 1
        await connection.remove_listener("orders", print)
        await pool.release(connection)
        assert held() == 0

    runner.run(use_it())
    assert len(reports.hold_names()) == 1


@pytest.mark.parametrize("callback", ["setup", "init", "connect"])
def test_callback_that_fails(
    callback: str, make_pool: MakePool, runner: asyncio.Runner, reports: Reports
) -> None:
    """An error of the application's own callback is heard as it is, and opens no hold."""

    async def fail(*_args: Any, **_kwargs: Any) -> None:
        raise ValueError(callback)

    async def use_it() -> None:
        pool = await make_pool(min_size=0, **{callback: fail})
        with pytest.raises(ValueError, match=callback):
            await pool.acquire()

    runner.run(use_it())
    reports.none()

    assert acquired() == 0


def test_pool_that_connects(
    arguments: Arguments, make_pool: MakePool, runner: asyncio.Runner, reports: Reports
) -> None:
    """A pool connects on its own account, also through a function of the application, and keeps it."""

    async def connect(*args: Any, **kwargs: Any) -> Any:
        return await asyncio.create_task(asyncpg.connect(*args, **kwargs))

    async def fill_it() -> None:
        for settings in ({}, {"connect": connect}):
            pool = await make_pool(min_size=2, max_size=3, **settings)
            async with pool.acquire(), pool.acquire(), pool.acquire():
                assert held() == 3
        assert held() == 0

    runner.run(fill_it())
    reports.none()

    assert acquired() == 6


def test_timeout(pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """A wait that ends in a timeout is heard as it is, and holds nothing."""

    async def wait_for_it() -> None:
        async with pool.acquire():
            with pytest.raises(TimeoutError):
                await pool.acquire(timeout=0.05)
            assert held() == 1

    runner.run(wait_for_it())

    assert acquired() == 1


def test_figures(
    pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """A report says how full the pool is, and how many wait for it."""

    async def keep() -> None:
        Cycle(await pool.acquire())

    async def wait_in_vain() -> None:
        await keep()
        waiting = [asyncio.create_task(pool.fetchval("SELECT 1")) for _ in range(2)]
        await asyncio.to_thread(reports.leak)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    runner.run(wait_in_vain())

    assert "1/1 used, 2 waiting" in caplog.text


def test_pool_that_closes(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A pool that waits, as it closes, for what is in use reports nobody; and is closed in the end."""

    async def close_it() -> None:
        pool = await make_pool()
        connection = await pool.acquire()
        closing = asyncio.create_task(pool.close())
        await asyncio.to_thread(reports.none)
        await pool.release(connection)
        await closing

    runner.run(close_it())
    reports.none()

    assert held() == 0


# --- dropped, with a pool that refers to what it has handed out --------------------------------------------


async def keep_transaction(connection: Any, _keep: list[Any]) -> None:
    """Begin a transaction, which refers to the connection, and the connection to it."""
    await connection.transaction().start()


async def keep_nothing(connection: Any, _keep: list[Any]) -> None:
    """Use the connection in every way that leaves something of it behind."""
    await connection.fetch("SELECT 1")
    async with connection.transaction():
        async for _ in connection.cursor("SELECT 1"):
            pass


@pytest.mark.parametrize("use", [keep_nothing, keep_transaction])
@pytest.mark.parametrize("pooled", [True, False])
def test_dropped_after_use(
    use: Any,
    pooled: bool,
    pool: asyncpg.Pool,
    arguments: Arguments,
    runner: asyncio.Runner,
    instrument: Instrument,
) -> None:
    """A connection that was used before it was dropped is reported at once, also in a transaction."""
    reports = instrument(grace=NEVER)

    async def drop() -> None:
        connection = await (pool.acquire() if pooled else asyncpg.connect(**arguments))
        await use(connection, [])

    async def drop_it() -> None:
        await drop()
        leak = await asyncio.to_thread(reports.leak)
        assert leak.function.endswith("drop")
        assert ("dropped" in leak.evidence, leak.certainty) == (True, "confirmed")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)
            gc.collect(0)

    collected_at_once = not pooled and use is keep_nothing
    with pytest.warns(ResourceWarning, match="unclosed") if collected_at_once else contextlib.nullcontext():
        runner.run(drop_it())
    reports.no_more()


async def keep_statement(connection: Any, keep: list[Any]) -> None:
    """Keep a prepared statement."""
    keep.append(await connection.prepare("SELECT 1"))


async def keep_cursor(connection: Any, keep: list[Any]) -> None:
    """Keep a cursor."""
    await connection.execute("BEGIN")
    keep.append(await connection.cursor("SELECT 1"))


async def keep_proxy(connection: Any, keep: list[Any]) -> None:
    """Keep what the pool handed out."""
    keep.append(connection)


@pytest.mark.parametrize("use", [keep_statement, keep_cursor, keep_proxy])
def test_still_used(use: Any, pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """What somebody still uses is not dropped: the proxy, or a statement or cursor of the connection."""
    keep: list[Any] = []

    async def acquire() -> None:
        await use(await pool.acquire(), keep)

    async def use_it(_mine: list[Any]) -> None:
        await acquire()
        await asyncio.to_thread(reports.none)

    runner.run(use_it(keep))


def test_proxy_that_was_released(pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """Who still has what it has released has no way to what another function does not release."""

    async def keep() -> None:
        Cycle(await pool.acquire())

    async def work() -> None:
        async with pool.acquire() as connection:
            pass
        await keep()
        await asyncio.to_thread(reports.leak)
        assert "released" in repr(connection)

    runner.run(work())

    assert reports.leak().function.endswith("keep")


# --- listeners ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [True, False])
def test_listener(
    pooled: bool, pool: asyncpg.Pool, arguments: Arguments, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A connection that listens is idle by design, while it listens."""
    reports = instrument(overdue_after=SOON)
    heard = asyncio.Event()

    async def listen() -> None:
        connection = await (pool.acquire() if pooled else asyncpg.connect(**arguments))
        await connection.add_listener("orders", lambda *_: heard.set())
        await asyncio.to_thread(reports.none, 2 * SOON)
        await connection.execute("NOTIFY orders")
        await heard.wait()
        await connection.close()

    runner.run(listen())
    reports.none()


def test_listener_that_was_removed(
    pool: asyncpg.Pool, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """After it has listened a connection is like any other one."""
    reports = instrument(overdue_after=SOON)

    async def listen() -> None:
        async with pool.acquire() as connection:
            await connection.add_listener("orders", print)
            await connection.remove_listener("orders", print)
            await asyncio.to_thread(reports.leak)

    runner.run(listen())

    assert reports.leak().evidence == {"overdue"}


def test_listener_in_pool_only(pool: asyncpg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """A connection that nobody has but its listener, which is given it each time, is in use."""
    heard: list[Any] = []

    async def listen() -> None:
        connection = await pool.acquire()
        await connection.add_listener("orders", lambda it, *_: heard.append(it))
        await connection.execute("NOTIFY orders")

    async def release() -> None:
        await listen()
        await asyncio.to_thread(reports.none)
        connection = heard.pop()
        await connection.reset()
        await pool.release(connection)

    runner.run(release())
    reports.none()

    assert reports.hold_names() == ["test_listener_in_pool_only.listen"]


def test_listener_of_the_pool(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A listener that every connection gets may be given it, but is no reason to keep it."""

    async def setup(connection: Any) -> None:
        await connection.add_listener("orders", print)

    async def drop() -> None:
        pool = await make_pool(setup=setup)
        await (await pool.acquire()).execute("SELECT 1")

    runner.run(drop())
    leak = reports.leak()

    assert (leak.evidence & {"dropped", "function_exited"}, leak.certainty) == (
        {"function_exited"},
        "possible",
    )


def test_listener_that_acquires(
    make_pool: MakePool, arguments: Arguments, runner: asyncio.Runner, reports: Reports
) -> None:
    """What a listener acquires is a hold, although a pool made its connection for somebody's acquire."""
    done = asyncio.Event()

    async def on_order(*_args: Any) -> None:
        connection = await asyncpg.connect(**arguments)
        await connection.close()
        done.set()

    async def listen() -> None:
        pool = await make_pool(min_size=0)
        async with pool.acquire() as connection:
            await connection.add_listener("orders", on_order)
            await connection.execute("NOTIFY orders")
            await done.wait()
            await connection.remove_listener("orders", on_order)

    runner.run(listen())

    assert "test_listener_that_acquires.on_order" in reports.hold_names()


# --- direct connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("connect", [connect_before, asyncpg.connection.connect])
def test_way_to_connect(connect: Any, arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """Each way to connect makes one hold, also the function that was imported before the start."""

    async def use_it() -> None:
        connection = await connect(**arguments)
        (hold,) = open_holds()
        assert (hold.pool, hold.server_pid) == (None, connection.get_server_pid())
        connection.terminate()
        await connection.close()

    runner.run(use_it())

    assert reports.hold_names() == ["test_way_to_connect.use_it"]


def test_broken_and_dropped(arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """A direct connection that the server has ended holds nothing any more: dropping it is no leak."""

    async def drop() -> None:
        await end_session(arguments, await asyncpg.connect(**arguments))

    runner.run(drop())
    reports.none()

    assert held() == 0


def test_collected(
    arguments: Arguments, runner: asyncio.Runner, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    """A direct connection that the garbage collector finds is dropped, though asyncpg then terminates it."""
    reports = instrument(grace=NEVER)

    async def drop() -> None:
        Cycle(await asyncpg.connect(**arguments))

    async def collect() -> None:
        await drop()
        gc.collect(0)

    with pytest.warns(ResourceWarning, match="unclosed connection"):
        runner.run(collect())
    leak = reports.leak()

    assert "dropped" in leak.evidence
    assert leak.function.endswith("drop")
    assert reports.telemetry.value("connleak.leaks.open") == 0
    assert "hint: use `try … finally: await connection.close()`" in caplog.text


# --- driver calls ------------------------------------------------------------------------------------------


async def _prepared(connection: Any) -> None:
    statement = await connection.prepare("SELECT 1 FROM customers")
    await statement.fetch()
    await statement.fetchval()
    await statement.fetchmany([()])


async def _iterate(connection: Any) -> None:
    async with connection.transaction():
        async for _ in connection.cursor("SELECT 1 FROM customers", prefetch=2):
            pass


async def _cursor(connection: Any) -> None:
    async with connection.transaction():
        cursor = await connection.cursor("SELECT 1 FROM customers")
        await cursor.forward(1)
        await cursor.fetch(1)
        await cursor.fetchrow()


async def _copy(connection: Any) -> None:
    await connection.copy_from_table("customers", output=io.BytesIO())
    await connection.copy_to_table("customers", source=io.BytesIO(b"4\tsomebody\n"))
    await connection.copy_records_to_table("customers", records=[(5, "nobody")])


CALLS: list[tuple[Callable[[Any], Any], int]] = [
    (lambda it: it.execute("SELECT 1"), 1),
    (lambda it: it.execute("SELECT $1::int", 1), 1),
    (lambda it: it.fetch("SELECT 1 FROM customers"), 1),
    (lambda it: it.fetchrow("SELECT $1::int", 1), 1),
    (lambda it: it.fetchval("SELECT 1"), 1),
    (lambda it: it.fetchmany("SELECT $1::int", [(1,), (2,)]), 1),
    (lambda it: it.executemany("SELECT $1::int", [(1,), (2,)]), 1),
    (_prepared, 4),
    (_iterate, 2 + 3),  # BEGIN and COMMIT, prepare, two times two rows
    (_cursor, 2 + 5),  # BEGIN and COMMIT, prepare, bind, three calls
    (_copy, 3),
]


@pytest.mark.parametrize("pooled", [True, False])
def test_calls(
    pooled: bool, pool: asyncpg.Pool, arguments: Arguments, runner: asyncio.Runner, reports: Reports
) -> None:
    """Every way to call the server is seen, and counts once."""

    async def use_it(call: Callable[[Any], Any]) -> int:
        connection = await (pool.acquire() if pooled else asyncpg.connect(**arguments))
        await call(connection)
        (hold,) = open_holds()
        await connection.close()
        return hold.statements

    counts = [(call, runner.run(use_it(call))) for call, _ in CALLS]

    assert counts == CALLS


SLEEP = f"SELECT pg_sleep({2 * SOON})"


async def _sleep_prepared(connection: Any) -> None:
    await (await connection.prepare(SLEEP)).fetch()


async def _sleep_in_cursor(connection: Any) -> None:
    async with connection.transaction():
        async for _ in connection.cursor(SLEEP):
            pass


@pytest.mark.parametrize("sleep", [lambda it: it.execute(SLEEP), _sleep_prepared, _sleep_in_cursor])
def test_long_query_is_busy(
    sleep: Callable[[Any], Any], pool: asyncpg.Pool, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A query that runs for longer than the threshold is no idle hold."""
    reports = instrument(overdue_after=SOON)

    async def use_it() -> None:
        async with pool.acquire() as connection:
            await sleep(connection)

    runner.run(use_it())
    reports.none(0)


@pytest.mark.parametrize("statements", ["full", "off"])
def test_last_statement(
    statements: str,
    pool: asyncpg.Pool,
    runner: asyncio.Runner,
    instrument: Instrument,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A report shows the last statement, also of what was prepared before others; or none at all."""
    reports = instrument(statements=statements)

    async def keep() -> None:
        connection = await pool.acquire()
        statement = await connection.prepare("SELECT name FROM customers")
        await connection.fetch("SELECT 4")
        await statement.fetch()
        Cycle(connection)

    runner.run(keep())
    reports.leak()

    assert ("SELECT name FROM customers" in caplog.text) == (statements == "full")


def test_wrapped_by_another_tool(
    monkeypatch: pytest.MonkeyPatch, pool: asyncpg.Pool, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """An instrumentation that was there before gets what it would get without us."""
    seen: list[tuple[type, tuple[Any, ...]]] = []

    def wrapper(wrapped: Any, instance: Any, args: Any, kwargs: Any) -> Any:
        seen.append((type(instance), args))
        return wrapped(*args, **kwargs)

    wrapped = wrapt.FunctionWrapper(vars(asyncpg.Connection)["execute"], wrapper)
    monkeypatch.setattr(asyncpg.Connection, "execute", wrapped)
    instrument()
    runner.run(pool.execute("SELECT 1"))

    assert seen[0] == (asyncpg.Connection, ("SELECT 1",))


# --- SQLAlchemy, which connects through asyncpg ------------------------------------------------------------


@pytest.mark.parametrize("created", [False, True])
def test_sqlalchemy(created: bool, arguments: Arguments, runner: asyncio.Runner, reports: Reports) -> None:
    """What SQLAlchemy connects for its own pool is its own, also through a function of the application."""

    async def creator() -> Any:
        return await asyncpg.connect(**arguments)

    async def use_it() -> None:
        how: Any = {"async_creator": creator} if created else {"connect_args": arguments}
        engine = create_async_engine("postgresql+asyncpg://", **how)
        async with engine.connect() as connection:
            await connection.execute(sqlalchemy.text("SELECT 1 FROM customers"))
            await connection.commit()
            assert [hold.statements for hold in open_holds()] == [4]  # BEGIN, prepare, fetch, COMMIT
        assert held() == 0
        await engine.dispose()

    runner.run(use_it())
    reports.none()


def test_sqlalchemy_without_its_adapter(
    monkeypatch: pytest.MonkeyPatch, arguments: Arguments, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """That does not depend on the adapter for SQLAlchemy."""
    monkeypatch.setattr(SQLAlchemyAdapter, "install", lambda *_: None)
    reports = instrument()

    async def creator() -> Any:
        return await asyncpg.connect(**arguments)

    async def use_it() -> None:
        how: Any
        for how in ({"async_creator": creator}, {"connect_args": arguments}):
            engine = create_async_engine("postgresql+asyncpg://", **how)
            async with engine.connect() as connection:
                await connection.execute(sqlalchemy.text("SELECT 1"))
                assert held() == 0
            await engine.dispose()

    runner.run(use_it())
    assert reports.hold_names() == []


def test_refused_at_once(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """What asyncpg refuses at the call, and not when it is awaited, is refused at the call."""

    async def use_too_late() -> None:
        pool = await make_pool(max_size=1)
        async with pool.acquire() as connection, connection.transaction():
            cursor = await connection.cursor("SELECT * FROM customers")
        with pytest.raises(asyncpg.InterfaceError, match="released back to the pool"):
            cursor.forward(1)

    runner.run(use_too_late())
    reports.none()


def test_unknown_address(arguments: Arguments, runner: asyncio.Runner, instrument: Instrument) -> None:
    """A connection that does not say where its server is is held all the same."""
    reports = instrument()

    async def connect() -> None:
        connection = await asyncpg.connect(**arguments)
        connection._addr = None
        known = DRIVER.facts(connection)
        assert (known.address, known.port, known.system) == (None, None, "postgresql")
        await connection.close()

    runner.run(connect())
    reports.none()
