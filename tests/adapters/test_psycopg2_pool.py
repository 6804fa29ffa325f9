"""The pools of psycopg2."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg2
import pytest
from opentelemetry.instrumentation import dbapi
from opentelemetry.sdk.trace import SpanProcessor
from psycopg2 import extensions
from psycopg2.pool import AbstractConnectionPool, PoolError, SimpleConnectionPool, ThreadedConnectionPool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.adapters.test_psycopg2 import IDLE, LONG, calls, facts
from tests.support.reports import NEVER, Reports
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

POOLS = [SimpleConnectionPool, ThreadedConnectionPool]


def name_of(dsn: str) -> str:
    """The name of a pool: its server and database."""
    where = extensions.parse_dsn(dsn)
    return f"{where['host']}/{where['dbname']}"


class Pooled(Library):
    """``getconn`` and ``putconn`` of a pool, which is made when it is used for the first time."""

    connection_type = extensions.connection
    maximum = 2
    reuses = True

    def __init__(self, cls: Any, dsn: str) -> None:
        self.pool = name_of(dsn)
        self._cls = cls
        self._dsn = dsn
        self._connections: Any = None

    @property
    def connections(self) -> Any:
        """The pool."""
        if self._connections is None:
            self._connections = self._cls(1, 2, self._dsn)
        return self._connections

    @property
    def acquire(self) -> Callable[[], Any]:
        """Get a connection."""
        acquire: Callable[[], Any] = self.connections.getconn
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Put it back."""
        release: Callable[[Any], Any] = self.connections.putconn
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask a pool that has none and may have none."""
        refuse: Callable[[], Any] = self._cls(0, 0, self._dsn).getconn
        return refuse

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        connection.cursor().execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg2 tells."""
        return facts(connection)

    def reference(self, connection: Any) -> Callable[[], Any]:
        """The pool keeps what was dropped."""
        return lambda: None

    def close(self) -> None:
        """Close the pool, if there is one."""
        if self._connections is not None:
            self._connections.closeall()


class PoolContract(SyncContract):
    """The contract with a pool of a class."""

    pool_class: Any

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of one connection, which may grow to two."""
        library = Pooled(self.pool_class, dsn)
        yield library
        library.close()


class TestSimpleConnectionPool(PoolContract):
    """The pool that threads may not share."""

    pool_class = SimpleConnectionPool


class TestThreadedConnectionPool(PoolContract):
    """The pool that threads may share."""

    pool_class = ThreadedConnectionPool


@contextmanager
def closing(pool: Any) -> Iterator[Any]:
    """Close a pool at the end, if it is not."""
    yield pool
    if not pool.closed:
        pool.closeall()


@pytest.fixture(params=POOLS)
def pool(request: pytest.FixtureRequest, dsn: str, reports: Reports) -> Iterator[Any]:
    """A pool of two connections, and at most four; with a short grace."""
    with closing(request.param(2, 4, dsn)) as pool:
        yield pool


# --- putting back ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "give_back",
    [
        lambda pool, connection: pool.putconn(connection),
        lambda pool, connection: pool.putconn(conn=connection),
        lambda pool, connection: pool.putconn(close=True, conn=connection),
        lambda pool, connection: pool.putconn(connection, None, True),
        lambda pool, connection: pool.closeall(),
    ],
)
def test_ways_to_release(give_back: Callable[[Any, Any], None], pool: Any, reports: Reports) -> None:
    """Each way to put back a connection, or to close it, ends its hold."""

    def puts_back() -> None:
        connection = pool.getconn()
        assert [hold.pool for hold in open_holds()] == [name_of(connection.dsn)]
        give_back(pool, connection)

    puts_back()
    assert open_holds() == []
    reports.none()
    assert reports.hold_names() == ["test_ways_to_release.puts_back"]


def test_refused(pool: Any, dsn: str, reports: Reports) -> None:
    """A pool takes no connection that it has not given out: both are held as before."""
    connection, other = pool.getconn(), psycopg2.connect(dsn)
    with pytest.raises(PoolError, match="unkeyed"):
        pool.putconn(other)
    with closing(SimpleConnectionPool(0, 1, dsn)) as another, pytest.raises(PoolError, match="unkeyed"):
        another.putconn(connection)

    assert [hold.pool for hold in open_holds()] == [name_of(dsn), None]
    pool.putconn(connection)
    other.close()
    reports.none()


def test_put_back_nothing(pool: Any, reports: Reports) -> None:
    """What the pool says to that is what the application hears."""
    pool.getconn()
    with pytest.raises((PoolError, TypeError)):
        pool.putconn()
    assert len(open_holds()) == 1


def test_put_back_after_closeall(pool: Any, reports: Reports) -> None:
    """``closeall`` closes what is out as well; the pool then refuses it, and nothing is held."""
    connection = pool.getconn()
    pool.closeall()
    assert connection.closed
    with pytest.raises(PoolError, match="closed"):
        pool.putconn(connection)
    with pytest.raises(PoolError, match="closed"):
        pool.closeall()

    assert open_holds() == []
    reports.none()


def test_closeall_withdraws(pool: Any, reports: Reports) -> None:
    """What was reported, and is closed with its pool, has recovered."""

    def keeps() -> None:
        Cycle(pool.getconn())

    keeps()
    leak = reports.leak()
    pool.closeall()

    assert reports.recovery().id == leak.id


# --- leaks -------------------------------------------------------------------------------------------------


def test_with(pool: Any, reports: Reports) -> None:
    """``with connection:`` ends the transaction, and does not put back: the function is named."""

    def selects() -> None:
        with pool.getconn() as connection:
            connection.cursor().execute("SELECT 1")

    selects()
    leak = reports.leak()

    assert leak.function.endswith("test_with.selects")
    assert leak.evidence == {"dropped", "function_exited"}
    assert leak.certainty == "confirmed"
    assert len(pool._used) == 1


def test_closed_and_not_put_back(pool: Any, reports: Reports) -> None:
    """To close a connection is not to put it back: the pool has lost a slot."""

    def closes() -> None:
        pool.getconn().close()

    closes()

    assert reports.leak().function.endswith("closes")
    assert len(pool._used) == 1


def test_kept_by_a_cursor(pool: Any, reports: Reports) -> None:
    """A cursor refers to its connection: that was not dropped, but nobody can use it any more."""

    def keeps() -> None:
        Cycle(pool.getconn().cursor())

    keeps()

    assert reports.leak().certainty == "possible"


def test_exhausted(dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """A pool that is exhausted says so; what exhausted it was named, with the pool's figures."""
    with closing(ThreadedConnectionPool(0, 1, dsn)) as pool:

        def drops() -> None:
            pool.getconn()

        drops()
        reports.leak()
        with pytest.raises(PoolError, match="exhausted"):
            pool.getconn()

        assert f'pool "{name_of(dsn)}" 1/1 used' in caplog.text
        assert len(open_holds()) == 0


# --- keys of the application's -----------------------------------------------------------------------------


def test_same_key(pool: Any, reports: Reports) -> None:
    """Asked for by the same key, a connection is held once, until it is put back."""
    connection = pool.getconn("reports")

    def helper() -> None:
        assert pool.getconn(key="reports") is connection

    helper()
    assert [hold.function.rpartition(".")[2] for hold in open_holds()] == ["test_same_key"]
    reports.none()
    pool.putconn(connection, "reports")
    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_kept_under_a_key(pool: Any, reports: Reports) -> None:
    """What nobody refers to is not lost while its key is known: no function is its owner."""

    def select() -> None:
        pool.getconn("reports").cursor().execute("SELECT 1")

    select()
    reports.none()
    select()
    reports.none()
    pool.putconn(pool.getconn("reports"))
    assert open_holds() == []


def test_key_of_a_thread(dsn: str, reports: Reports) -> None:
    """A thread that ends leaves the connection behind that it has kept under its key."""
    with closing(ThreadedConnectionPool(1, 4, dsn)) as pool:
        thread = threading.Thread(target=lambda: pool.getconn(threading.get_ident()), name="seller")
        thread.start()
        thread.join()
        leak = reports.leak()

        assert leak.evidence == {"thread_ended"}
        assert leak.certainty == "possible"
        assert leak.attributes["thread.name"] == "seller"


def test_key_that_threads_share(dsn: str, reports: Reports) -> None:
    """Whoever asks for the key next has the connection then: the end of the thread before says nothing."""
    with closing(ThreadedConnectionPool(1, 4, dsn)) as pool:
        thread = threading.Thread(target=pool.getconn, args=("reports",))
        thread.start()
        thread.join()
        connection = pool.getconn("reports")
        reports.none()

        assert [hold.thread for hold in open_holds()] == ["MainThread"]
        pool.putconn(connection)


def test_without_a_key_again(pool: Any, reports: Reports) -> None:
    """A connection that was kept under a key once, and is got without one, is as any other."""
    first, second = pool.getconn("reports"), pool.getconn("sales")
    pool.putconn(second)
    pool.putconn(first)
    del first, second

    def drops() -> None:
        pool.getconn()

    drops()
    assert reports.leak().certainty == "confirmed"


# --- pools of an application's own -------------------------------------------------------------------------


class ThreadsPool(AbstractConnectionPool):
    """As psycopg2's PersistentConnectionPool was: each thread has a connection of its own."""

    def getconn(self) -> Any:  # type: ignore[override]  # there is one key
        """That of this thread."""
        return self._getconn(threading.get_ident())  # type: ignore[attr-defined]

    def putconn(self, connection: Any) -> None:  # type: ignore[override]
        """Give it up."""
        self._putconn(connection, threading.get_ident())  # type: ignore[attr-defined]

    def closeall(self) -> None:
        """Close all."""
        self._closeall()  # type: ignore[attr-defined]


class CheckingPool(ThreadedConnectionPool):
    """A pool with methods of its own around psycopg2's, and its own way to connect."""

    def _connect(self, key: Any = None) -> Any:
        connection = psycopg2.connect(*self._args, **self._kwargs)  # type: ignore[attr-defined]
        if key is None:
            self._pool.append(connection)  # type: ignore[attr-defined]
        else:
            self._used[key] = connection  # type: ignore[attr-defined]
            self._rused[id(connection)] = key  # type: ignore[attr-defined]
        return connection

    def getconn(self, *args: Any) -> Any:
        """One that works."""
        connection = super().getconn(*args)
        connection.cursor().execute("SELECT 1")
        return connection


def test_pool_of_threads(dsn: str, reports: Reports) -> None:
    """A thread's own connection is the thread's: the functions that use it need not put it back."""
    with closing(ThreadsPool(1, 4, dsn)) as pool:

        def select() -> None:
            pool.getconn().cursor().execute("SELECT 1")

        select()
        select()
        assert calls() == 2
        reports.none()
        pool.putconn(pool.getconn())
        assert open_holds() == []
        select()
        pool.closeall()
        assert open_holds() == []


def test_pool_with_methods_around(dsn: str, reports: Reports) -> None:
    """The owner is who called the pool's own method; what the pool connects for itself nobody holds."""
    with closing(CheckingPool(2, 4, dsn)) as pool:
        assert open_holds() == []
        connection = pool.getconn()
        hold, _transaction_of_its_check = open_holds()
        assert hold.pool == name_of(dsn)
        pool.putconn(connection)
        del connection

        def drops() -> None:
            pool.getconn()

        drops()
        assert reports.leak().function.endswith("drops")


def test_pool_that_fills_itself(pool: Any, reports: Reports) -> None:
    """What a pool connects in advance, at any time, nobody holds."""
    pool._connect()

    assert open_holds() == []
    assert len(pool._pool) == 3


def test_generator(pool: Any, reports: Reports) -> None:
    """The usual context manager of an application: who uses it is the owner, and it puts back."""

    @contextmanager
    def connection() -> Iterator[Any]:
        connection = pool.getconn()
        try:
            yield connection
        finally:
            pool.putconn(connection)

    def selects() -> None:
        with connection() as it:
            it.cursor().execute("SELECT 1")
            assert {hold.function.rpartition(".")[2] for hold in open_holds()} == {"selects"}

    selects()
    reports.none()


class Locked(SpanProcessor):
    """Notes whether a pool is locked while a hold begins or ends."""

    def __init__(self) -> None:
        self.pool: Any = None
        self.seen: list[bool] = []

    def on_start(self, span: object, parent_context: object = None) -> None:
        """A hold begins."""
        self.seen.append(self.pool._lock.locked())

    def on_end(self, span: object) -> None:
        """It has ended."""
        self.seen.append(self.pool._lock.locked())


def test_outside_of_the_lock(dsn: str, reports: Reports, telemetry: Telemetry) -> None:
    """Nothing is told while the pool is locked: whoever is told may use the pool."""
    processor = Locked()
    telemetry.tracer_provider.add_span_processor(processor)
    with closing(ThreadedConnectionPool(1, 1, dsn)) as processor.pool:
        processor.pool.putconn(processor.pool.getconn())

    assert processor.seen == [False, False]


# --- calls that nobody sees --------------------------------------------------------------------------------


def test_pool_before_the_instrumentation(dsn: str, instrument: Instrument) -> None:
    """Its connections are held, but their calls are not seen: they are never overdue."""
    with closing(SimpleConnectionPool(1, 1, dsn)) as pool:
        reports = instrument(overdue_after=IDLE)
        connection = pool.getconn()
        connection.cursor().execute(f"SELECT pg_sleep({LONG})")

        assert reports.leaks() == []
        assert len(open_holds()) == 1


def test_pool_of_connections_by_a_function(dsn: str, instrument: Instrument) -> None:
    """The same of connections that a function of the application's has made."""
    reports = instrument(overdue_after=IDLE)
    with closing(SimpleConnectionPool(1, 1, dsn, connection_factory=extensions.connection.__call__)) as pool:
        connection = pool.getconn()
        connection.cursor().execute(f"SELECT pg_sleep({LONG})")

        assert type(connection) is extensions.connection
        assert reports.leaks() == []
        assert len(open_holds()) == 1


def test_overdue(dsn: str, instrument: Instrument) -> None:
    """All others are overdue when they are idle, and not while they are busy."""
    reports = instrument(overdue_after=IDLE, grace=NEVER)
    with closing(SimpleConnectionPool(1, 1, dsn)) as pool:
        connection = pool.getconn()
        connection.cursor().execute(f"SELECT pg_sleep({LONG})")
        assert reports.leaks() == []
        assert reports.leak().evidence == {"overdue"}


def test_proxies(dsn: str, reports: Reports, telemetry: Telemetry) -> None:
    """Where an instrumentation puts proxies into the pool, what is behind them is held."""
    tracing = dbapi.DatabaseApiIntegration("test", "postgresql", tracer_provider=telemetry.tracer_provider)
    original = psycopg2.connect

    def connect(*args: Any, **kwargs: Any) -> Any:
        return tracing.wrapped_connection(original, args, kwargs)

    psycopg2.connect = connect
    try:
        pool = SimpleConnectionPool(1, 2, dsn)
    finally:
        psycopg2.connect = original
    with closing(pool):
        connection = pool.getconn()
        connection.cursor().execute("SELECT 1")
        assert calls() == 1
        pool.putconn(connection)
        assert open_holds() == []
        del connection

        def drops() -> None:
            pool.getconn()

        drops()
        assert reports.leak().function.endswith("drops")


def test_dropped_at_once(dsn: str, instrument: Instrument) -> None:
    """No grace is waited for where only the pool has it."""
    reports = instrument(grace=NEVER)
    with closing(ThreadedConnectionPool(1, 2, dsn)) as pool:

        def drops() -> None:
            pool.getconn()

        drops()
        wait_until(reports.leaks, "a leak")
