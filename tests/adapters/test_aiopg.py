"""aiopg keeps the contract, pooled and direct; and what is special about it."""

import asyncio
import functools
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import aiopg
import psycopg
import pytest
import wrapt
from psycopg.conninfo import conninfo_to_dict

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import AsyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import NEVER, Reports, acquired, held
from tests.support.waiting import until

pytestmark = pytest.mark.filterwarnings(
    # aiopg says so when it is given back a connection in a transaction, and closes it
    "ignore:Invalid transaction status on released connection:ResourceWarning"
)

type MakePool = Callable[..., Any]
"""Makes a pool with settings; it is terminated when the test has ended."""

SOON = 0.3
"""A threshold that is soon over, in seconds."""


class Aiopg(Library):
    """What pooled and direct connections have in common."""

    connection_type = aiopg.Connection

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn

    async def execute(self, connection: Any, query: str) -> Any:
        """Run a query in a transaction: aiopg opens none by itself."""
        async with connection.cursor() as cursor:
            await cursor.execute("BEGIN")
            await cursor.execute(query)
            return await cursor.fetchall()

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg2 tells; over a Unix socket there is no port."""
        return {
            "db.system.name": "postgresql",
            "db.namespace": connection.raw.info.dbname,
            "server.address": connection.raw.info.host,
            "connleak.server.pid": connection.raw.info.backend_pid,
        }

    def reference(self, connection: Any) -> Callable[[], Any]:
        """A dropped connection stays with its pool, or with one of aiopg's own cursors for a while."""
        return lambda: None


class Pooled(Aiopg):
    """``acquire`` and ``release`` of a pool."""

    maximum = 2

    def __init__(self, dsn: str, connections: aiopg.Pool) -> None:
        super().__init__(dsn)
        self.connections = connections
        parts = conninfo_to_dict(dsn)
        self.pool = f"{parts['host']}/{parts['dbname']}"

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
        """Acquire from a pool that is closing."""

        async def refuse() -> Any:
            async with aiopg.create_pool(self.dsn, minsize=0) as pool:
                pool.close()
                return await pool.acquire()

        return refuse


class Direct(Aiopg):
    """``aiopg.connect``."""

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(aiopg.connect, self.dsn)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        release: Callable[[Any], Any] = aiopg.Connection.close
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return functools.partial(aiopg.connect, "host=127.0.0.1 port=1")


@pytest.fixture(autouse=True)
def collected_in_time(runner: asyncio.Runner) -> Iterator[None]:
    """Collect what is left while the loop still runs, which aiopg's finalizer needs."""

    async def collect() -> None:
        gc.collect(0)

    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        runner.run(collect())


@pytest.fixture
def make_pool(dsn: str, runner: asyncio.Runner) -> Iterator[MakePool]:
    """A coroutine function that makes pools, of one connection if nothing else is said."""
    pools: list[aiopg.Pool] = []

    async def make(**settings: Any) -> aiopg.Pool:
        pool = await aiopg.create_pool(dsn, **{"minsize": 1, "maxsize": 1} | settings)
        pools.append(pool)
        gc.collect(0)  # cursors that were made before the instrumentation started are not known to it
        return pool

    async def close(pool: aiopg.Pool) -> None:
        pool.terminate()
        await pool.wait_closed()

    yield make
    for pool in pools:
        runner.run(close(pool))


@pytest.fixture
def pool(make_pool: MakePool, runner: asyncio.Runner) -> aiopg.Pool:
    """A pool of one connection, which was made before the instrumentation started."""
    pool: aiopg.Pool = runner.run(make_pool())
    return pool


class TestPool(AsyncContract):
    """The pool."""

    @pytest.fixture
    def library(self, dsn: str, make_pool: MakePool, runner: asyncio.Runner) -> Library:
        """A pool of one connection, which may grow to two."""
        return Pooled(dsn, runner.run(make_pool(maxsize=2)))


class TestConnection(AsyncContract):
    """Direct connections."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """Direct connections."""
        return Direct(dsn)


connect_before = aiopg.connect
"""The function as an application has it that imported it before the instrumentation started."""


async def end_session(dsn: str, connection: Any) -> None:
    """End the server's side of a connection, and let the connection notice."""
    other = await psycopg.AsyncConnection.connect(dsn, autocommit=True)
    await other.execute("SELECT pg_terminate_backend(%s)", [connection.raw.info.backend_pid])
    await other.close()
    await until(lambda: connection.closed)


async def select(connection: Any, query: str = "SELECT 1") -> None:
    """Run a query; its cursor and that cursor's transaction refer to each other afterwards."""
    async with connection.cursor() as cursor:
        await cursor.execute(query)


# --- pools -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["acquire", "await", "with", "cursor"])
def test_way_to_acquire(way: str, pool: aiopg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """Each way to use a pool makes one hold, of the function that uses it."""

    async def use_it() -> None:
        if way == "acquire":
            async with pool.acquire() as connection:
                await select(connection)
        elif way == "await":
            connection = await pool.acquire()
            await select(connection)
            assert held() == 1
            await pool.release(connection)
        elif way == "with":
            async with await pool as connection:
                await select(connection)
        else:
            with await pool.cursor() as cursor:
                await cursor.execute("SELECT 1")

    runner.run(use_it())
    (span,) = reports.telemetry.spans("hold")

    assert span.name == "hold test_way_to_acquire.use_it"
    assert dict(span.attributes or {})["connleak.statements"] == 1
    assert held() == 0


def test_terminate(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A pool that terminates closes what is held, and what is released afterwards is no error."""

    async def use_it() -> None:
        pool = await make_pool(maxsize=2)
        one, two = await pool.acquire(), await pool.acquire()
        assert held() == 2
        pool.terminate()
        assert held() == 0
        await pool.release(one)
        await pool.release(two)

    runner.run(use_it())
    reports.none()

    assert reports.hold_names() == ["test_terminate.use_it"] * 2


def test_closed_is_not_released(
    pool: aiopg.Pool, dsn: str, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A connection that was closed, or ended by the server, keeps its slot until it is released."""
    reports = instrument(grace=NEVER)

    async def use_it() -> None:
        connection = await pool.acquire()
        await end_session(dsn, connection)
        await connection.close()
        assert held() == 1
        await pool.release(connection)
        assert held() == 0

    async def drop() -> None:
        connection = await pool.acquire()
        await connection.close()

    runner.run(use_it())
    runner.run(drop())

    assert reports.leak().function.endswith("drop")
    assert pool.size == 1


def test_release_that_is_refused(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A connection that another pool refuses to take is held."""

    async def use_it() -> None:
        pool, other = await make_pool(), await make_pool()
        connection = await pool.acquire()
        with pytest.raises(AssertionError):
            await other.release(connection)
        assert held() == 1
        await pool.release(connection)
        assert held() == 0

    runner.run(use_it())


def test_pool_that_connects(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A pool connects on its own account, and keeps what is idle; also psycopg2's connection is no hold."""

    async def on_connect(connection: Any) -> None:
        await select(connection)

    async def fill_it() -> None:
        pool = await make_pool(minsize=2, maxsize=3, on_connect=on_connect)
        assert acquired() == 0
        async with pool.acquire(), pool.acquire(), pool.acquire():
            assert held() == 3
        assert held() == 0

    runner.run(fill_it())
    reports.none()

    assert acquired() == 3


def test_timeout(make_pool: MakePool, runner: asyncio.Runner, reports: Reports) -> None:
    """A wait that ends in a timeout is heard as it is, and holds nothing."""

    async def wait_for_it() -> None:
        pool = await make_pool(timeout=0.1)
        async with pool.acquire():
            with pytest.raises(TimeoutError):
                await pool.acquire()
            assert held() == 1

    runner.run(wait_for_it())

    assert acquired() == 1


def test_figures(
    pool: aiopg.Pool, runner: asyncio.Runner, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """A report says how full the pool is, and how many wait for it."""

    async def keep() -> None:
        Cycle(await pool.acquire())

    async def use_it() -> None:
        async with pool.acquire():
            pass

    async def wait_in_vain() -> None:
        await keep()
        waiting = [asyncio.create_task(use_it()) for _ in range(2)]
        await asyncio.to_thread(reports.leak)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    runner.run(wait_in_vain())

    assert "1/1 used, 2 waiting" in caplog.text


def test_proxy_of_an_instrumentation(pool: aiopg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """OpenTelemetry's instrumentation gives out a proxy, which the pool then keeps: it is no leak."""

    async def acquire(keep: list[Any]) -> None:
        keep.append(await pool.acquire())

    async def use_it() -> None:
        keep: list[Any] = []
        proxy: Any = wrapt.ObjectProxy(pool._free[0])
        pool._free[0] = proxy
        del proxy
        await acquire(keep)
        assert type(keep[0]) is wrapt.ObjectProxy
        await asyncio.to_thread(reports.none)
        await pool.release(keep.pop())
        assert held() == 0

    runner.run(use_it())

    assert len(reports.hold_names()) == 1


# --- dropped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pooled", [True, False])
def test_dropped_after_use(
    pooled: bool, pool: aiopg.Pool, dsn: str, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A connection that was used before it was dropped is reported at once, though its cursors keep it."""
    reports = instrument(grace=NEVER)

    async def drop() -> None:
        connection = await (pool.acquire() if pooled else aiopg.connect(dsn))
        await select(connection)
        await select(connection, "BEGIN")

    runner.run(drop())
    leak = reports.leak()

    assert leak.function.endswith("drop")
    assert ("dropped" in leak.evidence, leak.certainty) == (True, "confirmed")


@pytest.mark.parametrize("keeps", ["cursor", "transaction", "connection"])
@pytest.mark.parametrize("pooled", [True, False])
def test_still_used(
    keeps: str, pooled: bool, pool: aiopg.Pool, dsn: str, runner: asyncio.Runner, reports: Reports
) -> None:
    """What somebody still uses is not dropped: the connection, a cursor, or a cursor's transaction."""

    async def acquire(keep: list[Any]) -> None:
        connection = await (pool.acquire() if pooled else aiopg.connect(dsn))
        cursor = await connection.cursor()
        keep.append({"cursor": cursor, "connection": connection, "transaction": cursor._transaction}[keeps])

    async def use_it() -> None:
        keep: list[Any] = []
        await acquire(keep)
        await asyncio.to_thread(reports.none)
        kept = keep.pop()
        connection = getattr(getattr(kept, "_cursor", kept), "connection", kept)
        await (pool.release(connection) if pooled else connection.close())

    runner.run(use_it())
    assert held() == 0


def test_collected(
    dsn: str, runner: asyncio.Runner, instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    """A direct connection that the garbage collector finds is dropped, though aiopg then closes it."""
    reports = instrument(grace=NEVER)

    async def drop() -> None:
        Cycle(await aiopg.connect(dsn))

    async def collect() -> None:
        await drop()
        gc.collect(0)

    with pytest.warns(ResourceWarning, match="Unclosed connection"):
        runner.run(collect())
    leak = reports.leak()

    assert "dropped" in leak.evidence
    assert leak.function.endswith("drop")
    assert reports.telemetry.value("connleak.leaks.open") == 0
    assert "hint: use `async with aiopg.connect(…)" in caplog.text


# --- direct connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["await", "with", "class"])
def test_way_to_connect(way: str, dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """Each way to connect makes one hold, also the function that was imported before the start."""

    async def use_it() -> None:
        if way == "with":
            async with connect_before(dsn) as connection:
                assert held() == 1
        else:
            connection = await (connect_before(dsn) if way == "await" else aiopg.Connection(dsn, 5.0))
            (hold,) = open_holds()
            assert (hold.pool, hold.server_pid) == (None, connection.raw.info.backend_pid)
            await connection.close()

    runner.run(use_it())

    assert reports.hold_names() == ["test_way_to_connect.use_it"]


def test_timeout_of_a_query(dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """Aiopg closes a connection whose query took too long: nobody holds it any more."""

    async def use_it() -> None:
        connection = await aiopg.connect(dsn, timeout=5)
        cursor = await connection.cursor(timeout=SOON)
        with pytest.raises(TimeoutError):
            await cursor.execute("SELECT pg_sleep(10)")
        assert held() == 0

    runner.run(use_it())
    reports.none()


def test_broken_and_dropped(dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """A direct connection that the server has ended holds nothing any more: dropping it is no leak."""

    async def drop() -> None:
        connection = await aiopg.connect(dsn)
        await end_session(dsn, connection)
        Cycle(connection)

    async def collect() -> None:
        await drop()
        gc.collect(0)

    runner.run(collect())
    reports.none()

    assert held() == 0


# --- driver calls and notifications ------------------------------------------------------------------------


def test_calls(pool: aiopg.Pool, runner: asyncio.Runner, reports: Reports) -> None:
    """Every way to call the server is seen, and counts once."""

    async def use_it() -> None:
        async with pool.acquire() as connection, connection.cursor() as cursor:
            await cursor.execute("SELECT 1 FROM customers")
            await cursor.fetchall()
            await cursor.callproc("lower", ["A"])
            async with cursor.begin():
                await cursor.execute("SELECT 2")
            assert [hold.statements for hold in open_holds()] == [5]

    runner.run(use_it())


def test_long_query_is_busy(pool: aiopg.Pool, runner: asyncio.Runner, instrument: Instrument) -> None:
    """A query that runs for longer than the threshold is no idle hold."""
    reports = instrument(overdue_after=SOON)

    async def use_it() -> None:
        async with pool.acquire() as connection:
            await select(connection, f"SELECT pg_sleep({2 * SOON})")

    runner.run(use_it())
    reports.none(0)


@pytest.mark.parametrize("pooled", [True, False])
def test_notifications(
    pooled: bool, pool: aiopg.Pool, dsn: str, runner: asyncio.Runner, instrument: Instrument
) -> None:
    """A connection that waits for notifications is idle by design."""
    reports = instrument(overdue_after=SOON)

    async def listen() -> None:
        async with pool.acquire() if pooled else aiopg.connect(dsn) as connection:
            await select(connection, "LISTEN orders")
            waiting = asyncio.create_task(connection.notifies.get())
            await asyncio.to_thread(reports.none, 2 * SOON)
            await select(connection, "NOTIFY orders")
            assert (await waiting).channel == "orders"

    runner.run(listen())
    reports.none()
