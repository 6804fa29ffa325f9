"""Databases of peewee, with and without its pool.

peewee keeps the connection in the state of the thread, and closes it for that thread. So a function may leave
it to whoever comes next: of the contract, the clauses on a function's exit and on a threshold say the
opposite here, and no other thread can give it back. All others hold, for what a thread has that ends.
"""

import asyncio
import contextvars
import functools
import json
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import peewee
import psycopg
import psycopg2
import pytest
from opentelemetry.instrumentation import dbapi
from playhouse import pool as peewee_pool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.contract_fixtures import Run
from tests.adapters.library import Library
from tests.adapters.shop.customers import COUNT, Customers
from tests.adapters.test_psycopg import facts
from tests.conftest import Replaced
from tests.support import litedb
from tests.support.reports import GRACE, Reports, held
from tests.support.telemetry import Telemetry
from tests.support.waiting import wait_until

PooledPostgresqlDatabase: Any = peewee_pool.PooledPostgresqlDatabase
PooledSqliteDatabase: Any = peewee_pool.PooledSqliteDatabase
"""By names of our own, because peewee says nothing of the types of its methods."""

NOBODY_LISTENS: dict[str, Any] = {"host": "127.0.0.1", "port": 1, "connect_timeout": 5}


def parameters(dsn: str) -> dict[str, Any]:
    """A connection string as arguments of a database of peewee."""
    found: dict[str, Any] = psycopg.conninfo.conninfo_to_dict(dsn)
    return {"database": found.pop("dbname"), **found}


def pool_name(dsn: str) -> str:
    """The name of a pool to which nobody has given one."""
    found = parameters(dsn)
    return f"{found['host']}/{found['database']}"


def in_a_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Call it in a thread, named as this one and in its context; what comes out of it comes out here.

    When it returns the thread has ended, and its state is gone.
    """
    results: list[Any] = []
    errors: list[Exception] = []

    def call() -> None:
        try:
            results.append(function(*args))
        except Exception as error:
            errors.append(error)

    context = contextvars.copy_context()
    name = threading.current_thread().name
    thread = threading.Thread(target=context.run, args=(call,), name=name)
    thread.start()
    thread.join()
    if errors:
        raise errors.pop()
    return results.pop()


class Connected(Library):
    """``connection()`` of a database, which connects if need be, and its ``close()``."""

    def __init__(self, database: Any, connection_type: type) -> None:
        self.database = database
        self.connection_type = connection_type

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect, and get the connection."""
        acquire: Callable[[], Any] = self.database.connection
        return acquire

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close what this thread has."""
        return lambda _connection: self.database.close()

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where nobody listens."""
        refusing = peewee.PostgresqlDatabase("shop", **NOBODY_LISTENS, prefer_psycopg3=True)
        connect: Callable[[], Any] = refusing.connect
        return connect

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query in a transaction; peewee begins none by itself."""
        cursor = connection.cursor()
        cursor.execute("BEGIN")
        cursor.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What psycopg tells; psycopg 2 calls it the same."""
        return facts(connection)


class Pooled(Connected):
    """The same with a pool of two, which refers to what it has handed out."""

    maximum = 2
    reuses = True

    def __init__(self, dsn: str, database: Any, connection_type: type) -> None:
        super().__init__(database, connection_type)
        self.pool = pool_name(dsn)

    def reference(self, connection: Any) -> Callable[[], Any]:
        """It is never gone."""
        return lambda: None


class Direct(Connected):
    """The same without a pool."""

    def dropping(self) -> AbstractContextManager[Any]:
        """Psycopg warns of a connection that was dropped and is open."""
        return pytest.warns(ResourceWarning, match="was deleted while still open")


class PeeweeContract(SyncContract):
    """The contract, for threads that end."""

    @pytest.fixture
    def run(self) -> Run:
        """Call it in a thread that ends."""
        return in_a_thread

    def test_function_exited(self, customers: Any, run: Run, reports: Reports) -> None:
        """The exit of a function says nothing: the thread still has the connection, and may close it."""
        customers.keep()
        reports.none()
        customers.release(None)

        assert open_holds() == []
        assert reports.hold_names() == ["Customers.keep"]

    def test_late_release(self, customers: Any, run: Run, instrument: Instrument) -> None:
        """Nor does its age: one connection for each thread may lie idle. Its transaction must not."""
        reports = instrument(overdue_after=GRACE)
        customers.think(reports.leak)
        leak, recovery = reports.leak(), reports.recovery()

        assert "overdue" in leak.evidence
        assert leak.function.endswith("Connected.execute"), "it has begun the transaction"
        assert leak.attributes["connleak.resource"] == "transaction"
        assert recovery.id == leak.id
        assert reports.hold_names() == ["Customers.think"]

    def test_leak_attributes(
        self, library: Library, customers: Any, run: Run, reports: Reports, telemetry: Telemetry
    ) -> None:
        """The transaction is reported, which its function has left open, and the connection of the thread."""
        known = run(customers.keep_in_transaction, library.facts)
        wait_until(lambda: len(reports.leaks()) == 2, "two leaks")
        reports.no_more()

        for leak in reports.leaks():
            assert known.items() | {("connleak.transaction.outcome", "open")} <= leak.attributes.items()
        functions = {leak.attributes["connleak.resource"]: leak.function for leak in reports.leaks()}
        assert functions["connection"] == "customers.Customers.keep_in_transaction"
        assert functions["transaction"].endswith("Connected.execute"), "it has begun the transaction"

    def test_log_line(
        self, library: Library, customers: Any, run: Run, reports: Reports, log: Callable[[], str]
    ) -> None:
        """The lines for people say the same."""
        run(customers.keep_in_transaction, library.facts)
        wait_until(lambda: len(reports.leaks()) == 2, "two leaks")
        reports.settle()

        assert "connection leak (" in log()
        assert "transaction leak (" in log()
        assert log().count("transaction open") == 2

    def test_released_in_another_thread(self, customers: Customers, reports: Reports) -> None:
        """No other thread can close it: its ``close`` closes its own, and the first thread's stays open."""
        customers.lend(id)
        in_a_thread(customers.release, None)
        assert len(open_holds()) == 1
        customers.release(None)

        assert open_holds() == []
        reports.none()

    def test_uninstrument(
        self, customers: Any, run: Run, telemetry: Telemetry, replaced: list[Replaced]
    ) -> None:
        """After the instrumentation has gone nothing is seen any more, and what was held can be released."""
        super().test_uninstrument(customers, lambda method, *args: method(*args), telemetry, replaced)


class TestPool(PeeweeContract):
    """The pool, over psycopg 3."""

    @pytest.fixture
    def library(self, dsn: str) -> Iterator[Library]:
        """A pool of at most two connections."""
        database = PooledPostgresqlDatabase(**parameters(dsn), max_connections=2, prefer_psycopg3=True)
        yield Pooled(dsn, database, psycopg.Connection)
        database.close_all()


class TestDirect(PeeweeContract):
    """No pool, over psycopg 3."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """A database."""
        return Direct(peewee.PostgresqlDatabase(**parameters(dsn), prefer_psycopg3=True), psycopg.Connection)


class Direct2(Connected):
    """The same over psycopg 2, to whose ``close`` nobody can listen but a subclass."""

    subclasses = True


class TestDirectOverPsycopg2(PeeweeContract):
    """No pool, over psycopg 2."""

    @pytest.fixture
    def library(self, dsn: str) -> Library:
        """A database."""
        return Direct2(peewee.PostgresqlDatabase(**parameters(dsn)), psycopg2.extensions.connection)


@pytest.fixture
def make(dsn: str) -> Iterator[Callable[..., Any]]:
    """A function that makes pools, of one connection if nothing else is said."""
    with ExitStack() as stack:

        def make(**settings: Any) -> Any:
            settings = {"max_connections": 1, "prefer_psycopg3": True} | settings
            database = PooledPostgresqlDatabase(**parameters(dsn), **settings)
            stack.callback(database.close_all)
            return database

        yield make


@pytest.fixture
def database(make: Callable[..., Any]) -> Any:
    """A pool of one connection."""
    return make()


class Worker:
    """A thread that has a connection for as long as the ``with`` block, and closes nothing."""

    def __init__(self, database: Any) -> None:
        self.database = database
        self.opened, self.leave = threading.Event(), threading.Event()
        self.thread = threading.Thread(target=self.work)

    def work(self) -> None:
        """Ask, and wait."""
        self.database.execute_sql(COUNT)
        self.opened.set()
        self.leave.wait(60)

    def __enter__(self) -> None:
        self.thread.start()
        assert self.opened.wait(30)

    def __exit__(self, *_: object) -> None:
        self.leave.set()
        self.thread.join()


def customers_of(database: Any) -> type[peewee.Model]:
    """The table of customers as a model."""

    class Customer(peewee.Model):
        """A customer."""

        name = peewee.TextField()

        class Meta:
            """Where it is."""

            table_name = "customers"

    Customer.bind(database)
    return Customer


# --- who is the owner, and when is it given back ------------------------------------------------------------


def test_ways_to_connect(database: Any, reports: Reports) -> None:
    """Each way makes one hold, of the function that needed the connection, and ends with it."""

    def connects() -> None:
        database.connect()
        database.close()

    def with_context() -> None:
        with database.connection_context():
            database.execute_sql(COUNT)

    @database.connection_context()  # type: ignore[untyped-decorator]  # so is all of peewee
    def decorated() -> None:
        database.execute_sql(COUNT)

    def in_transaction() -> None:
        with database, database:
            database.execute_sql(COUNT)

    def asks() -> None:
        assert customers_of(database).select().count() == 3
        assert len(customers_of(database).select()) == 3
        assert database.close()

    for function in (connects, with_context, in_transaction, asks):
        function()
    decorated()

    names = [name.rpartition(".")[2] for name in reports.hold_names()]
    assert names == ["connects", "with_context", "in_transaction", "asks", "test_ways_to_connect"]
    assert open_holds() == []
    reports.none()


def test_open_already(database: Any, reports: Reports) -> None:
    """A second ``connect`` is refused, or opens nothing: it is one hold, of whoever came first."""

    def first() -> None:
        database.connect()

    first()
    assert database.connect(reuse_if_open=True) is False
    with pytest.raises(peewee.OperationalError, match="already opened"):
        database.connect()
    (hold,) = open_holds()
    assert hold.function.endswith("first")
    assert database.close() is True
    assert database.close() is False

    assert reports.hold_names() == ["test_open_already.first"]
    reports.none()


def test_refused_close(database: Any, reports: Reports) -> None:
    """In a transaction peewee closes nothing: the hold goes on."""
    with database.atomic():
        with pytest.raises(peewee.OperationalError, match="transaction is open"):
            database.close()
        assert held() == 1
    database.close()

    assert reports.hold_names() == ["test_refused_close"]


def test_calls(database: Any, reports: Reports) -> None:
    """The driver's calls count in the hold, and so does the state of its transaction."""
    with database.connection_context():
        (before,) = open_holds()
        database.execute_sql(COUNT)
        (after,) = open_holds()

    assert after.statements > before.statements
    assert after.server_pid is not None


# --- a thread that ends -------------------------------------------------------------------------------------


def forget(database: Any) -> None:
    """Asks, and closes nothing."""
    database.execute_sql(COUNT)


def with_connection(database: Any) -> None:
    """Asks, and closes."""
    with database.connection_context():
        database.execute_sql(COUNT)


def test_ended_thread(
    make: Callable[..., Any], instrument: Instrument, caplog: pytest.LogCaptureFixture
) -> None:
    """Only the pool refers to what a finished thread has not closed: reported at once, the slot is lost."""
    reports = instrument(grace=600)
    database = make()
    in_a_thread(forget, database)
    leak = reports.leak()

    assert leak.function.endswith(".forget")
    assert leak.evidence == {"dropped", "thread_ended"}
    assert leak.certainty == "confirmed"
    assert len(database._in_use) == 1
    assert f'pool "{leak.attributes["db.client.connection.pool.name"]}" 1/1 used' in caplog.text
    assert "with database.connection_context()" in caplog.text
    with pytest.raises(peewee_pool.MaxConnectionsExceeded):
        database.connect()
    assert len(reports.leaks()) == 1


def test_ended_thread_without_pool(dsn: str, reports: Reports) -> None:
    """Without a pool it is collected with the thread: nothing is lost, but nobody has closed it."""
    database = peewee.PostgresqlDatabase(**parameters(dsn), prefer_psycopg3=True)
    with pytest.warns(ResourceWarning, match="was deleted while still open"):
        in_a_thread(forget, database)
    leak = reports.leak()

    assert leak.function.endswith(".forget")
    assert "dropped" in leak.evidence
    assert reports.telemetry.value("connleak.leaks.open") == 0


def test_thread_that_closes(database: Any, reports: Reports) -> None:
    """A thread that closes at its end has lost nothing."""
    in_a_thread(with_connection, database)
    in_a_thread(with_connection, database)

    assert len(reports.hold_names()) == 2
    reports.none()


def test_waiting(make: Callable[..., Any], reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """Where the pool has a timeout, a report tells how many wait for it."""
    database = make(max_connections=2, timeout=60)
    database.connect()
    with Worker(database):
        waiting = threading.Thread(target=with_connection, args=(database,))
        waiting.start()
        wait_until(lambda: database._pool_available._waiters, "a thread that waits")
    reports.leak()
    assert "2/2 used, 1 waiting" in caplog.text
    database.close()
    waiting.join()


def test_two_databases(make: Callable[..., Any], dsn: str, instrument: Instrument) -> None:
    """A thread may keep a connection of each of several databases, however long they lie idle."""
    reports = instrument(overdue_after=GRACE)
    direct = [peewee.PostgresqlDatabase(**parameters(dsn), prefer_psycopg3=True) for _ in range(2)]
    databases = [make(), make(), *direct]

    def connect() -> None:
        for database in databases:
            database.connect()

    connect()
    reports.none()
    for database in databases:
        database.close()

    assert reports.hold_names() == ["test_two_databases.connect"] * 4
    reports.none()


# --- other ways to close ------------------------------------------------------------------------------------


def test_closed_by_another_thread(database: Any, reports: Reports) -> None:
    """``close_all`` and ``close_stale`` close what any thread has: there is nothing left to give back."""
    for close in (database.close_all, functools.partial(database.close_stale, age=0)):
        with Worker(database):
            assert len(open_holds()) == 1
            close()
            assert open_holds() == []

    assert reports.hold_names() == ["Worker.work"] * 2
    reports.none()


def test_closed_by_hand(database: Any, reports: Reports) -> None:
    """``manual_close`` closes the connection instead of giving it to the pool; that is no leak."""
    database.connect()
    database.manual_close()
    database.connect()
    database.close()

    assert reports.hold_names() == ["test_closed_by_hand"] * 2
    reports.none()


@pytest.mark.filterwarnings("ignore:.*was deleted while still open:ResourceWarning")
def test_disposed(make: Callable[..., Any], dsn: str, reports: Reports) -> None:
    """``dispose`` forgets a connection on purpose: as much as to close it."""
    for database in (make(), peewee.PostgresqlDatabase(**parameters(dsn), prefer_psycopg3=True)):
        database.connect()
        database.dispose()

    assert open_holds() == []
    assert reports.hold_names() == ["test_disposed"] * 2
    reports.none()


def test_stale(make: Callable[..., Any], reports: Reports) -> None:
    """A connection that has become too old is replaced when it is given back, or asked for."""
    database = make(stale_timeout=0.001)
    for _ in range(3):
        with database.connection_context():
            database.execute_sql("SELECT pg_sleep(0.01)")

    assert reports.hold_names() == ["test_stale"] * 3
    reports.none()


# --- other states -------------------------------------------------------------------------------------------


class StateOfContext(peewee._ConnectionState):
    """A state in a context variable, as FastAPI's documentation has shown it for years."""

    def __init__(self) -> None:
        super().__setattr__("_variable", contextvars.ContextVar("state"))
        super().__init__()

    def reset(self) -> None:
        """Begin anew, in the context of the caller."""
        self._variable.set({})
        super().reset()

    def __setattr__(self, name: str, value: Any) -> None:
        self._variable.get()[name] = value

    def __getattr__(self, name: str) -> Any:
        return self._variable.get()[name]


def test_state_of_a_context(make: Callable[..., Any], runner: asyncio.Runner, reports: Reports) -> None:
    """What a request leaves behind in its own context is reported, although its thread goes on."""
    database = make(max_connections=2)
    database._state = StateOfContext()

    async def request(*, closes: bool) -> None:
        database._state.reset()
        database.connect()
        database.execute_sql(COUNT)
        if closes:
            database.close()

    async def serve() -> None:
        await asyncio.create_task(request(closes=True))
        await asyncio.to_thread(reports.none)
        await asyncio.create_task(request(closes=False))
        await asyncio.to_thread(reports.leak)

    runner.run(serve())
    leak = reports.leak()

    assert leak.function.endswith("request")
    assert (leak.certainty, "dropped" in leak.evidence) == ("confirmed", True)
    assert len(database._in_use) == 1


def test_state_of_all_threads(make: Callable[..., Any], reports: Reports) -> None:
    """A database that is not for threads keeps one connection for all: whichever opened it may end."""
    database = make(thread_safe=False)
    DATABASES.append(database)
    in_a_thread(forget, database)
    reports.none()
    database.close()
    DATABASES.clear()

    assert len(reports.hold_names()) == 1
    reports.none()


DATABASES: list[Any] = []
"""The application's module state."""


# --- other drivers ------------------------------------------------------------------------------------------


def test_sqlite(tmp_path: Path, reports: Reports) -> None:
    """The same for SQLite: what a thread forgets is dropped, with the pool and without it."""
    file = str(tmp_path / "shop")
    pool = PooledSqliteDatabase(file, max_connections=2, check_same_thread=False)
    direct: Any = peewee.SqliteDatabase(file)
    for database in (pool, direct):
        with database.connection_context():
            database.execute_sql("CREATE TABLE IF NOT EXISTS customers (id)")
        in_a_thread(forget, database)
    wait_until(lambda: len(reports.leaks()) == 2, "two leaks")
    reports.no_more()
    pool.close_all()

    assert [leak.certainty for leak in reports.leaks()] == ["confirmed"] * 2
    assert {leak.attributes["db.system.name"] for leak in reports.leaks()} == {"sqlite"}


def test_untrackable(
    tmp_path: Path, reports: Reports, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be referred to weakly has no hold, and nothing breaks."""
    monkeypatch.setattr(peewee, "sqlite3", litedb)
    database: Any = peewee.SqliteDatabase(str(tmp_path / "shop"))
    with database.connection_context():
        database.execute_sql("CREATE TABLE customers (id)")

    assert reports.hold_names() == []
    assert caplog.messages == []


def test_traced_by_opentelemetry(make: Callable[..., Any], reports: Reports) -> None:
    """OpenTelemetry's proxies of connections hide nothing: in use they are no leak, forgotten they are."""
    module: Any = types.SimpleNamespace(connect=psycopg.connect)
    dbapi.wrap_connect("shop", module, "connect", "postgresql")
    database = make()
    database._adapter.connect = lambda database, **parameters: module.connect(
        dbname=database.database, **parameters
    )
    with database.connection_context():
        assert type(database.connection()) is dbapi.TracedConnectionProxy
        database.execute_sql(COUNT)
        (hold,) = open_holds()
        assert hold.statements > 0
    reports.none()
    with Worker(database):
        reports.none()

    assert reports.leak().evidence == {"thread_ended"}


@pytest.mark.parametrize("database", ["playhouse.pool:PooledPostgresqlDatabase", "peewee:PostgresqlDatabase"])
def test_end_of_the_process(database: str, dsn: str) -> None:
    """What the threads of a process have when it ends is no leak; nor is what the main thread has."""
    program = (
        "import json, logging, pkgutil, sys\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from otel_connleak import ConnLeakInstrumentor\n"
        "logging.basicConfig(level=logging.INFO)\n"
        "ConnLeakInstrumentor().instrument()\n"
        "database = pkgutil.resolve_name(sys.argv[1])(**json.loads(sys.argv[2]), prefer_psycopg3=True)\n"
        "def ask(_):\n"
        "    database.execute_sql('SELECT 1')\n"
        "threads = ThreadPoolExecutor(2)\n"
        "list(threads.map(ask, range(2)))\n"
        "ask(None)\n"
    )
    settings = json.dumps(parameters(dsn))
    ended = subprocess.run(
        [sys.executable, "-c", program, database, settings],
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )

    assert "no leaks: __main__.ask" in ended.stderr
    assert "connection leak" not in ended.stderr


@pytest.mark.parametrize("first", ["peewee", "playhouse.pool"])
def test_imported_later(first: str) -> None:
    """The library may be imported after the instrumentation has started, also by the module of its pool."""
    program = (
        "from otel_connleak import ConnLeakInstrumentor\n"
        "ConnLeakInstrumentor().instrument()\n"
        f"import {first}\n"
        "from peewee import Database\n"
        "assert hasattr(Database.connect, '__wrapped__')\n"
        "ConnLeakInstrumentor().uninstrument()\n"
        "assert not hasattr(Database.connect, '__wrapped__')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
