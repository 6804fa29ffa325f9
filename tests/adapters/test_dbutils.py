"""The pools of DBUtils."""

import functools
import gc
import sqlite3
import subprocess
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dbutils.persistent_db import PersistentDB
from dbutils.pooled_db import (
    PooledDB,
    PooledDedicatedDBConnection,
    PooledSharedDBConnection,
    TooManyConnectionsError,
)
from dbutils.simple_pooled_db import PooledDB as SimplePooledDB
from dbutils.simple_pooled_db import PooledDBConnection
from opentelemetry.instrumentation import dbapi

from otel_connleak import expect_long_hold, open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.customers import COUNT
from tests.adapters.shop.keeping import Cycle
from tests.adapters.test_psycopg import REFUSED, end_session, facts
from tests.support.reports import GRACE, Reports, held
from tests.support.waiting import wait_until

ERRORS = psycopg.OperationalError, psycopg.InterfaceError, psycopg.InternalError

sqlite3_connect_before = sqlite3.connect
"""The function as it is without the instrumentation: its connections cannot be referred to weakly."""

MODULE = types.SimpleNamespace(connect=psycopg.connect, threadsafety=1)
"""psycopg, as a module would say it whose connections threads may not share; as many drivers do."""


def driver_connection(proxy: Any) -> Any:
    """The connection of psycopg below a proxy."""
    below = proxy._con
    return getattr(below, "_con", below)


def pool_name(dsn: str) -> str:
    """The name of a pool to which nobody has given one."""
    parameters = psycopg.conninfo.conninfo_to_dict(dsn)
    return f"{parameters['host']}/{parameters['dbname']}"


class Pooled(Library):
    """``connection()`` of a pool, and ``close()`` of what it gives."""

    maximum = 2
    reclaims = True

    def __init__(self, dsn: str, pool: Any, refusing: Callable[[], Any], connection_type: type) -> None:
        self.pool = pool_name(dsn)
        self.connections = pool
        self.connection_type = connection_type
        self.refusing = refusing

    @property
    def acquire(self) -> Callable[[], Any]:
        """Get a connection."""
        acquire: Callable[[], Any] = self.connections.connection
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close it."""
        release: Callable[[Any], Any] = self.connection_type.close  # type: ignore[attr-defined]  # it has one
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        return self.refusing

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        return connection.cursor().execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells."""
        return facts(driver_connection(connection))


class TestPooledDB(SyncContract):
    """A pool of connections that are not shared."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of one connection, which may grow to two."""
        pool = PooledDB(psycopg, 1, 0, 0, 2, conninfo=dsn)
        refusing = PooledDB(psycopg, conninfo=REFUSED)
        yield Pooled(dsn, pool, refusing.connection, PooledDedicatedDBConnection)
        pool.close()


class TestSimplePooledDB(SyncContract):
    """The simple pool with a queue."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of two connections."""
        pool = SimplePooledDB(MODULE, 2, conninfo=dsn)
        refusing = functools.partial(SimplePooledDB, MODULE, 1, conninfo=REFUSED)
        yield Pooled(dsn, pool, refusing, PooledDBConnection)
        while not pool._queue.empty():
            pool._queue.get().close()


@pytest.fixture
def pool(dsn: str) -> Iterator[PooledDB]:
    """A pool of one connection."""
    pool = PooledDB(psycopg, 0, 0, 0, 1, conninfo=dsn)
    yield pool
    pool.close()


@pytest.fixture
def sharing(dsn: str) -> Iterator[PooledDB]:
    """A pool of one connection, which threads share."""
    pool = PooledDB(psycopg, 0, 0, 1, 1, conninfo=dsn)
    yield pool
    pool.close()


def forget(pool: Any) -> None:
    """Returns early."""
    connection = pool.connection()
    connection.cursor().execute(COUNT)


# --- the pool's own connections ----------------------------------------------------------------------------


def test_connections_of_the_pool_itself(dsn: str, reports: Reports) -> None:
    """What a pool connects in advance, here by a function of the application's, nobody holds."""
    pools = [
        PooledDB(lambda: psycopg.connect(dsn), 2),
        SimplePooledDB(types.SimpleNamespace(connect=lambda: psycopg.connect(dsn), threadsafety=1), 2),
    ]

    assert open_holds() == []
    assert reports.hold_names() == []
    pools[0].close()
    while not pools[1]._queue.empty():
        pools[1]._queue.get().close()


def test_ways_to_acquire(pool: PooledDB, reports: Reports) -> None:
    """Each way makes one hold, which ends with the ``with`` block."""
    with pool.connection():
        assert len(open_holds()) == 1
    with pool.connection(shareable=False):
        assert len(open_holds()) == 1
    with pool.dedicated_connection():
        assert len(open_holds()) == 1

    assert reports.hold_names() == ["test_ways_to_acquire"] * 3
    reports.none()


def test_exhausted(pool: PooledDB, reports: Reports) -> None:
    """The pool's own error passes, and opens no hold."""
    with pool.connection():
        with pytest.raises(TooManyConnectionsError):
            pool.connection()
        assert len(open_holds()) == 1

    assert reports.hold_names() == ["test_exhausted"]


def test_waiting(dsn: str, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """A report tells how many wait for a pool that blocks; the hold of who waited begins when it gets one."""
    reports = instrument(overdue_after=0.1)
    pool = PooledDB(psycopg, 0, 0, 0, 1, True, conninfo=dsn)
    connection = pool.connection()
    thread = threading.Thread(target=lambda: pool.connection().close(), name="waiting")
    thread.start()
    wait_until(lambda: pool._lock._waiters, "a thread that waits")
    reports.leak()
    connection.close()
    thread.join()

    assert "1/1 used, 1 waiting" in caplog.text
    assert len(reports.hold_names()) == 2
    assert reports.leak().id == reports.recovery().id
    pool.close()


class Interrupted(psycopg.Connection[Any]):
    """A connection whose next rollback is interrupted, if that was asked for."""

    interrupt = False

    def rollback(self) -> None:
        """Roll back."""
        if self.interrupt:
            self.interrupt = False
            raise KeyboardInterrupt
        super().rollback()


def test_interrupted_release(dsn: str, reports: Reports) -> None:
    """Where ``close`` is interrupted the application has the connection still, and can close it again."""
    errors = dict(zip(("OperationalError", "InterfaceError", "InternalError"), ERRORS, strict=True))
    module = types.SimpleNamespace(connect=Interrupted.connect, threadsafety=2, **errors)
    pool = PooledDB(module, conninfo=dsn)
    connection = pool.connection()
    driver_connection(connection).interrupt = True
    with pytest.raises(KeyboardInterrupt):
        connection.close()
    assert len(open_holds()) == 1
    connection.close()
    pool.close()

    assert open_holds() == []
    assert reports.hold_names() == ["test_interrupted_release"]
    reports.none()


# --- dropped -----------------------------------------------------------------------------------------------


def test_del_statement(pool: PooledDB, reports: Reports) -> None:
    """``del connection`` gives back too, as the documentation of DBUtils says: that is no leak."""
    connection = pool.connection()
    del connection

    assert open_holds() == []
    assert reports.hold_names() == ["test_del_statement"]
    reports.none()


def test_dropped_by_an_assignment(pool: PooledDB, reports: Reports) -> None:
    """Whatever else drops it is a leak, although the pool has it again."""
    connection = pool.connection()
    connection = None

    assert connection is None
    assert "dropped" in reports.leak().evidence
    assert len(pool._idle_cache) == 1


def test_cursor_of_a_dropped_connection(pool: PooledDB, reports: Reports) -> None:
    """``pool.connection().cursor()`` uses what the pool has again: its documentation warns of that."""
    cursor = pool.connection().cursor()
    cursor.execute(COUNT)

    assert "dropped" in reports.leak().evidence
    assert open_holds() == []


def test_dropped_in_a_cycle(pool: PooledDB, reports: Reports) -> None:
    """What the garbage collector finds is one leak, and no slot is lost."""
    connection = pool.connection()
    Cycle(connection)
    reference = weakref.ref(connection)
    connection = None
    gc.collect()

    assert reference() is None
    assert "dropped" in reports.leak().evidence
    assert reports.telemetry.value("connleak.leaks.open") == 0
    assert pool._connections == 0


def test_dropped_with_its_thread(pool: PooledDB, reports: Reports) -> None:
    """What a thread kept for itself goes with it, when none of its functions runs any more."""
    local = threading.local()

    def keep() -> None:
        local.connection = pool.connection()

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()

    assert "dropped" in reports.leak().evidence
    assert pool._connections == 0


def test_dropped_without_instrumentation(pool: PooledDB, instrument: Instrument) -> None:
    """A proxy that was closed, or never held, is nobody's leak when it is collected."""
    before = pool.connection()
    reports = instrument()
    before = None
    forgotten = pool.connection()
    forgotten.close()
    forgotten = None

    assert (before, forgotten) == (None, None)
    reports.none()
    assert reports.hold_names() == ["test_dropped_without_instrumentation"]


# --- reconnected -------------------------------------------------------------------------------------------


def test_reconnected(dsn: str, pool: PooledDB, reports: Reports) -> None:
    """DBUtils replaces a connection that the server has ended: the hold goes on, with the new one's calls."""
    with pool.connection() as connection:
        cursor = connection.cursor()
        broken = weakref.ref(driver_connection(connection))
        end_session(dsn, driver_connection(connection))
        cursor.execute(COUNT)
        pid = driver_connection(connection).info.backend_pid
        assert broken() is not driver_connection(connection)
        hold, transaction = open_holds()
        assert transaction.resource == "transaction"
        reports.none()
        cursor.execute(COUNT)
        assert open_holds()[0].statements > hold.statements > 0

    (span,) = [span for span in reports.telemetry.spans("hold") if "test_reconnected" in span.name]
    assert dict(span.attributes or {})["connleak.server.pid"] == pid
    assert open_holds() == []
    reports.none()


def test_reconnected_and_dropped(dsn: str, pool: PooledDB, reports: Reports) -> None:
    """What is dropped later is the leak of whoever had acquired it, once, and with the new connection."""

    def leave_it() -> int:
        connection = pool.connection()
        end_session(dsn, driver_connection(connection))
        connection.cursor().execute(COUNT)
        pid: int = driver_connection(connection).info.backend_pid
        return pid

    pid = leave_it()
    leak = reports.leak()

    assert leak.function.endswith("leave_it")
    assert leak.attributes["connleak.server.pid"] == pid


def test_reconnected_by_the_application(dsn: str, reports: Reports) -> None:
    """A creator of the application's own is called for the pool, also in the middle of a hold."""
    pool = PooledDB(lambda: psycopg.connect(dsn), failures=psycopg.OperationalError)
    with pool.connection() as connection:
        end_session(dsn, driver_connection(connection))
        connection.cursor().execute(COUNT)
        assert held() == 1

    assert open_holds() == []
    reports.none()
    pool.close()


# --- shared ------------------------------------------------------------------------------------------------


def test_shared(sharing: PooledDB, reports: Reports) -> None:
    """Each share of a connection is a hold of its own, and ends when it is given back."""
    first, second = sharing.connection(), sharing.connection()
    assert driver_connection(first) is driver_connection(second)
    assert type(first) is PooledSharedDBConnection
    assert len(open_holds()) == 2
    first.close()
    assert len(open_holds()) == 1
    second.close()

    assert open_holds() == []
    assert reports.hold_names() == ["test_shared"] * 2
    reports.none()


def test_share_dropped(sharing: PooledDB, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """Who drops a share is named, although others go on with the connection."""
    with sharing.connection() as connection:
        pid = driver_connection(connection).info.backend_pid
        forget(sharing)
        leak = reports.leak()

    assert leak.function.endswith(".forget")
    assert (leak.certainty, "dropped" in leak.evidence) == ("confirmed", True)
    assert leak.attributes["connleak.server.pid"] == pid
    # Shares are not to be compared with connections, of which there is but one.
    assert '" 1 used' in caplog.text


def test_share_of_a_lasting_query(sharing: PooledDB, instrument: Instrument) -> None:
    """Whose share runs a statement is not known: so none of them is ever called idle for too long."""
    reports = instrument(overdue_after=GRACE)
    with sharing.connection() as connection:
        connection.cursor().execute("SELECT pg_sleep(0.2)")
        reports.none()


def test_share_of_an_ended_thread(sharing: PooledDB, reports: Reports) -> None:
    """What a finished thread has not given back is reported."""
    kept: list[Any] = []

    def keep() -> None:
        kept.append(sharing.connection())
        Cycle(kept.pop())

    thread = threading.Thread(target=keep)
    thread.start()
    thread.join()

    assert reports.leak().evidence == {"thread_ended", "function_exited"}


# --- pools without holds -----------------------------------------------------------------------------------


def test_persistent(dsn: str, reports: Reports) -> None:
    """A connection for the life of a thread is nobody's to give back: DBUtils closes it after that."""
    persistent = PersistentDB(psycopg, closeable=True, conninfo=dsn)
    used: list[weakref.ref[Any]] = []

    def work() -> None:
        connection = persistent.connection()
        connection.cursor().execute(COUNT)
        used.append(weakref.ref(driver_connection(persistent.dedicated_connection())))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    del thread
    # The last thread's stays until another thread asks.
    persistent.connection().close()

    assert used[0]() is None
    assert reports.hold_names() == []
    reports.none()


def test_simple_pool_of_shared_connections(dsn: str, reports: Reports) -> None:
    """Where threads may share them, the simple pool gives out what stays in its list: nothing can be lost."""
    pool = SimplePooledDB(psycopg, 1, conninfo=dsn)
    forget(pool)
    pool.connection().close()

    assert reports.hold_names() == []
    reports.none()
    pool._connections.pop().close()


# --- other drivers -----------------------------------------------------------------------------------------


class Wrapper:
    """What an application may put around a connection: nobody here can read it, or sees its calls."""

    OperationalError, InterfaceError, InternalError = ERRORS

    def __init__(self, dsn: str) -> None:
        self.wrapped = psycopg.connect(dsn)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.wrapped, name)


def test_unknown_driver(dsn: str, instrument: Instrument) -> None:
    """What nobody here knows may be in use at any time, and is never idle for too long; it can be dropped."""
    reports = instrument(overdue_after=GRACE)
    pool = PooledDB(Wrapper, 0, 0, 0, 1, dsn=dsn)
    with pool.connection() as connection:
        connection.cursor().execute("SELECT pg_sleep(0.2)")
        reports.none()
    assert reports.hold_names() == ["test_unknown_driver"]
    forget(pool)
    leak = reports.leak()
    pool.close()

    assert leak.function.endswith(".forget")
    assert (leak.certainty, leak.attributes["db.system.name"]) == ("confirmed", "other_sql")


def test_expected_long_hold(dsn: str, instrument: Instrument) -> None:
    """A hold that is expected to be long stays so."""
    reports = instrument(overdue_after=GRACE)
    pool = PooledDB(psycopg, conninfo=dsn)
    with expect_long_hold(), pool.connection():
        reports.none()
    pool.close()


def test_traced_by_opentelemetry(dsn: str, instrument: Instrument) -> None:
    """OpenTelemetry's proxies of connections hide nothing: below them are those whose calls are seen."""
    reports = instrument(overdue_after=GRACE)
    module: Any = types.SimpleNamespace(connect=psycopg.connect)
    dbapi.wrap_connect("shop", module, "connect", "postgresql")
    pool = PooledDB(lambda: module.connect(dsn), 0, 0, 0, 1, failures=psycopg.OperationalError)
    with pool.connection() as connection:
        assert type(driver_connection(connection)) is dbapi.TracedConnectionProxy
        cursor = connection.cursor()
        cursor.execute(COUNT)
        end_session(dsn, driver_connection(connection).__wrapped__)
        cursor.execute(COUNT)
        before, _ = open_holds()
        cursor.execute(COUNT)
        after, _ = open_holds()
        leak = reports.leak()
    pool.close()

    assert after.statements > before.statements
    assert (leak.id, leak.evidence) == (reports.recovery().id, {"overdue"})


def test_untrackable(tmp_path: Path, reports: Reports) -> None:
    """Where a driver's connections cannot be referred to weakly, the proxy stands for them."""
    creator = functools.partial(sqlite3_connect_before, str(tmp_path / "shop"))
    pool = PooledDB(creator, 0, 0, 0, 1, failures=sqlite3.OperationalError)
    with pool.connection() as connection:
        connection.cursor().execute("CREATE TABLE customers (id)")
    assert reports.hold_names() == ["test_untrackable"]
    forget(pool)
    leak = reports.leak()
    pool.close()

    assert leak.function.endswith(".forget")
    assert (leak.certainty, "dropped" in leak.evidence) == ("confirmed", True)


def test_imported_later() -> None:
    """The import of any one of the pools is enough, also after the instrumentation has started."""
    program = (
        "from otel_connleak import ConnLeakInstrumentor\n"
        "ConnLeakInstrumentor().instrument()\n"
        "from dbutils.simple_pooled_db import PooledDB\n"
        "import dbutils.pooled_db\n"
        "for cls in (PooledDB, dbutils.pooled_db.PooledDB):\n"
        "    assert hasattr(cls.__init__, '__wrapped__'), cls\n"
        "ConnLeakInstrumentor().uninstrument()\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
