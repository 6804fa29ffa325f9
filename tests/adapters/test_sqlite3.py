"""Connections of sqlite3, of the standard library."""

import contextlib
import dbm
import functools
import gc
import operator
import sqlite3
import sys
import threading
import warnings
from abc import ABC
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

import coverage
import pytest
import sqlalchemy
from opentelemetry.instrumentation import dbapi

from otel_connleak import function_stats, leaks, open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop import state
from tests.adapters.shop.customers import COUNT
from tests.adapters.shop.keeping import Cycle
from tests.support.reports import Reports
from tests.support.telemetry import Telemetry

connect_before = sqlite3.connect
"""The function as an application has it that imported it before the instrumentation started."""

WARNS = sys.version_info >= (3, 13)
"""Whether Python warns of a connection that was not closed, and of positional arguments."""

LOCAL = threading.local()
"""What each thread of the application keeps for itself."""


@functools.cache
def shop() -> bytes:
    """A database with a table ``customers`` of three rows."""
    with contextlib.closing(connect_before(":memory:")) as connection:
        connection.execute("CREATE TABLE customers (name TEXT)")
        connection.executemany("INSERT INTO customers VALUES (?)", [("ada",), ("bob",), ("cy",)])
        connection.commit()
        return connection.serialize()


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The file of a database of a test's own."""
    path = tmp_path / "shop.db"
    path.write_bytes(shop())
    return str(path)


@pytest.fixture
def module_state() -> Iterator[None]:
    """Close at the end what a test keeps in module state."""
    yield
    while state.connections:
        state.connections.pop().close()


class Direct(Library):
    """``sqlite3.connect``."""

    connection_type = sqlite3.Connection
    subclasses = True

    def __init__(self, path: str) -> None:
        self.path = path

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(sqlite3.connect, self.path, check_same_thread=False)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return operator.methodcaller("close")

    @property
    def refuse(self) -> Callable[[], Any]:
        """Connect where there is no folder."""
        return functools.partial(sqlite3.connect, f"{self.path}/no/folder.db")

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query, in a transaction: a query alone begins none."""
        connection.execute("BEGIN")
        return connection.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """The database; there is no server."""
        return {"db.system.name": "sqlite", "db.namespace": self.path}

    def reference(self, connection: Any) -> Callable[[], Any]:
        """It stays until the garbage collector comes."""
        return lambda: None


class TestConnection(SyncContract):
    """``sqlite3.connect``."""

    @pytest.fixture
    def library(self, path: str) -> Library:
        """Direct connections."""
        return Direct(path)


class Customers:
    """A repository as they are written with sqlite3; each method connects."""

    def __init__(self, path: str) -> None:
        self.path = path

    def add(self, name: str) -> None:
        """Believes that ``with`` closes the connection; it commits."""
        with sqlite3.connect(self.path) as connection:
            connection.execute("INSERT INTO customers VALUES (?)", [name])

    def count(self) -> int:
        """Correct."""
        with contextlib.closing(sqlite3.connect(self.path)) as connection:
            ((count,),) = connection.execute(COUNT)
        return int(count)

    def names(self) -> Iterator[Any]:
        """Hands the connection on, in the cursor."""
        return iter(sqlite3.connect(self.path).execute("SELECT name FROM customers"))


class Store:
    """Keeps a connection for as long as it lives."""

    def __init__(self, path: str) -> None:
        self.connection = sqlite3.connect(path)

    def close(self) -> None:
        """Close it."""
        self.connection.close()


# --- releases that are none, and holds that are no leaks ----------------------------------------------------


def test_with_does_not_close(path: str, reports: Reports) -> None:
    """``with`` ends the transaction, not the connection: the function is named, at once and for certain."""
    Customers(path).add("dora")
    leak = reports.leak()

    assert leak.function == "tests.adapters.test_sqlite3.Customers.add"
    assert leak.certainty == "confirmed"
    assert leak.attributes["db.query.summary"] == "INSERT INTO customers"
    assert "connleak.transaction.outcome" not in leak.attributes
    assert Customers(path).count() == 4


def test_closing(path: str, reports: Reports) -> None:
    """``contextlib.closing`` closes it."""
    assert Customers(path).count() == 3
    reports.none()

    assert reports.hold_names() == ["Customers.count"]


def test_cursor_keeps_the_connection(path: str, reports: Reports) -> None:
    """Whoever has a cursor has its connection, which is dropped with it."""

    def first() -> Any:
        rows = Customers(path).names()
        reports.none()
        return next(rows)

    assert first() == ("ada",)
    leak = reports.leak()
    assert leak.function == "tests.adapters.test_sqlite3.test_cursor_keeps_the_connection.first"
    assert leak.certainty == "confirmed"


def test_found_by_the_garbage_collector(path: str, reports: Reports) -> None:
    """A connection that is dropped while its function goes on is found with the garbage."""
    connection = sqlite3.connect(path)
    del connection
    with pytest.warns(ResourceWarning, match="unclosed") if WARNS else contextlib.nullcontext():
        gc.collect(0)

    assert reports.leak().evidence == {"dropped"}


def test_kept_in_module_state(path: str, module_state: None, instrument: Instrument) -> None:
    """One connection in module state, or on an object there, is no leak, however long it lies idle."""
    reports = instrument(overdue_after=0.1)
    state.connections.append(sqlite3.connect(path))
    state.connections.append(Store(path))
    reports.none(after=0.3)

    assert len(open_holds()) == 2


def test_idle(path: str, instrument: Instrument) -> None:
    """An idle connection costs no server anything, however long its function lives; a transaction does."""
    reports = instrument(overdue_after=0.1)
    connection = sqlite3.connect(path)
    reports.none(after=0.3)
    connection.execute("INSERT INTO customers VALUES (4)")
    leak = reports.leak()
    connection.close()

    assert leak.evidence == {"overdue"}


def test_one_for_each_thread(path: str, instrument: Instrument) -> None:
    """Each thread may keep a connection of its own, for as long as it lives."""
    reports = instrument(overdue_after=0.1)
    kept = threading.Barrier(3)
    go_on = threading.Event()

    def connect() -> None:
        LOCAL.connection = sqlite3.connect(path)

    def work() -> None:
        connect()
        kept.wait()
        go_on.wait()
        LOCAL.connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    kept.wait()
    reports.none(after=0.3)
    assert len(open_holds()) == 2
    go_on.set()
    for thread in threads:
        thread.join()

    assert open_holds() == []
    reports.none()


def test_thread_local_of_an_ended_thread(path: str, reports: Reports) -> None:
    """A thread that ends without closing its own connection drops it."""

    def connect() -> None:
        LOCAL.connection = sqlite3.connect(path)

    thread = threading.Thread(target=connect, name="seller")
    thread.start()
    thread.join()
    leak = reports.leak()

    assert leak.certainty == "confirmed"
    assert leak.attributes["thread.name"] == "seller"


def test_status_from_another_thread(path: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """The status of a connection that is for one thread only is read from ours, without an error."""

    def leave_it() -> None:
        connection = sqlite3.connect(path)
        connection.execute("INSERT INTO customers VALUES ('eve')")
        Cycle(connection)

    leave_it()

    assert reports.leak().attributes["connleak.transaction.outcome"] == "open"
    assert "ERROR" not in [record.levelname for record in caplog.records]


def test_connections_of_libraries(path: str, tmp_path: Path, reports: Reports) -> None:
    """What a library keeps for itself in an SQLite database is no hold of the application's."""
    data = coverage.CoverageData(str(tmp_path / "coverage"))
    data.add_lines({"shop.py": [1, 2]})
    data.write()
    data.close()
    with contextlib.closing(dbm.open(str(tmp_path / "cache"), "c")) as cache:  # SQLite since Python 3.13
        cache["ada"] = "1"
    assert function_stats() == []
    engine = sqlalchemy.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text(COUNT)) == 3
        held = open_holds()
    engine.dispose()
    reports.none()

    assert [hold for hold in held if hold.pool is None] == []
    assert open_holds() == []


# --- what connect and cursor are given, and what they give --------------------------------------------------


class Tuned(sqlite3.Connection):
    """An application's class of connections, whose ``with`` closes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tags = ["tuned"]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> Literal[False]:
        super().__exit__(kind, error, traceback)
        super().close()
        return False


class Returned(sqlite3.Connection):
    """An application's class of connections, which are used again when they are closed."""

    __slots__ = ("used",)

    def close(self) -> None:
        """Keep it open."""


class Counting(sqlite3.Cursor):
    """An application's class of cursors."""

    def execute(self, *args: Any) -> Any:
        """Run a statement, as every cursor does."""
        return super().execute(*args)


def names(instance: object) -> tuple[str, str, str, str]:
    """What a class calls itself."""
    cls = type(instance)
    return cls.__name__, cls.__qualname__, cls.__module__, str(cls.__doc__)


def test_class_with_its_own_exit(path: str, reports: Reports) -> None:
    """A class of the application's whose methods close with ``super()`` is heard."""
    with sqlite3.connect(path, factory=Tuned) as connection:
        assert isinstance(connection, Tuned)
        assert (vars(connection), names(connection)) == ({"tags": ["tuned"]}, names(Tuned(":memory:")))
        ((count,),) = connection.execute(COUNT)
        assert len(open_holds()) == 1

    assert (count, open_holds()) == (3, [])
    assert reports.telemetry.span("hold").attributes["connleak.statements"] == 2  # type: ignore[index]


def test_class_with_its_own_close(path: str, reports: Reports) -> None:
    """What a class of the application's makes of ``close`` is a release."""
    connection = sqlite3.connect(path, factory=Returned)
    connection.close()

    assert open_holds() == []
    assert connection.execute(COUNT).fetchone() == (3,)
    assert not hasattr(connection, "__dict__")
    assert type(connection) is type(sqlite3.connect(path, factory=Returned))
    sqlite3.Connection.close(connection)


def test_positional_factory(path: str, instrument: Instrument) -> None:
    """Positional arguments work as before, with the same warnings."""

    def connect() -> tuple[list[str], bool]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            hooked: Any = sqlite3.connect
            connection = hooked(path, 5.0, 0, "", False, Returned)
            with pytest.raises(TypeError, match=r"given by name \('factory'\) and position"):
                hooked(path, 5.0, 0, "", False, Returned, factory=Returned)
        sqlite3.Connection.close(connection)
        return [str(warning.message) for warning in caught], isinstance(connection, Returned)

    without = connect()
    instrument()

    assert connect() == without
    assert without[1]
    assert bool(without[0]) == WARNS
    assert len(open_holds()) == 1


def test_other_factories(path: str, reports: Reports) -> None:
    """What makes connections in another way is left alone, unless it uses ``connect`` itself."""

    class Registered(sqlite3.Connection):
        subclasses: ClassVar[list[type]] = []

        def __init_subclass__(cls) -> None:
            cls.subclasses.append(cls)

    class Abstract(sqlite3.Connection, ABC):
        pass

    def function(*args: Any, factory: object, **kwargs: Any) -> sqlite3.Connection:
        return sqlite3.Connection(*args, **kwargs)

    def nested(*args: Any, factory: object, **kwargs: Any) -> Any:
        return sqlite3.connect(*args, **kwargs)

    connect: Any = sqlite3.connect
    for factory in (Registered, Abstract, function):
        connection = connect(path, factory=factory)
        expected = sqlite3.Connection if factory is function else factory
        assert (type(connection), open_holds()) == (expected, [])
        connection.close()
    connection = connect(path, factory=nested)
    assert len(open_holds()) == 1
    connection.close()

    assert Registered.subclasses == []
    with pytest.raises(TypeError, match="not callable"):
        connect(path, factory=None)
    assert open_holds() == []


def test_attribute_of_a_class(path: str, reports: Reports) -> None:
    """``connect`` does not become a method of a class that has it, as the built-in function does not."""

    class Settings:
        connect: Any = sqlite3.connect

    assert sqlite3.connect.__name__ == "connect"
    Settings().connect(path).close()

    assert reports.hold_names() == ["test_attribute_of_a_class"]


@contextlib.contextmanager
def query_spans() -> Iterator[None]:
    """What OpenTelemetry's instrumentation for query spans does to sqlite3: its connections are proxies."""
    modules: list[Any] = [sqlite3, sqlite3.dbapi2]
    for module in modules:
        dbapi.wrap_connect(__name__, module, "connect", "sqlite")
    yield
    for module in modules:
        dbapi.unwrap_connect(module, "connect")


@pytest.mark.parametrize("first", [True, False])
def test_with_query_spans(path: str, telemetry: Telemetry, first: bool) -> None:
    """Whether the instrumentation for query spans is started before or after ours: it is one hold."""
    both = [query_spans(), telemetry.instrumented()]
    with contextlib.ExitStack() as stack:
        for each in both if first else reversed(both):
            stack.enter_context(each)
        connection = sqlite3.connect(path)
        assert connection.cursor().execute(COUNT).fetchone() == (3,)
        assert len(open_holds()) == 1
        connection.close()
        assert open_holds() == []

    assert telemetry.span("hold").attributes["connleak.statements"] == 1  # type: ignore[index]
    assert sqlite3.connect is connect_before


def test_no_statements(path: str, instrument: Instrument) -> None:
    """Where statements are not wanted, none is shown."""
    reports = instrument(statements="off")
    Customers(path).add("dora")

    assert "db.query.summary" not in reports.leak().attributes
    assert leaks()[0].statement is None


def test_one_function(instrument: Instrument) -> None:
    """``connect`` of the module and of its ``dbapi2`` are one and the same, before and while it is hooked."""
    assert sqlite3.connect is sqlite3.dbapi2.connect is connect_before
    instrument()
    assert connect_before is not sqlite3.connect is sqlite3.dbapi2.connect


def test_import_before_instrumentation(path: str, reports: Reports) -> None:
    """A function taken out before the start is the library's own, and is not seen: nothing breaks."""
    connection = connect_before(path)

    assert type(connection) is sqlite3.Connection
    assert open_holds() == []
    connection.close()


@pytest.mark.parametrize(
    ("database", "options", "namespace"),
    [
        (":memory:", {}, ":memory:"),
        ("", {}, None),
        ("file:cart?mode=memory&cache=shared", {"uri": True}, "file:cart"),
        (b"shop.db", {}, "shop.db"),
        (Path("shop.db"), {}, "shop.db"),
    ],
)
def test_names_of_databases(
    database: Any,
    options: dict[str, Any],
    namespace: str | None,
    reports: Reports,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database is called as the application calls it, without the parameters of a URI."""
    monkeypatch.chdir(tmp_path)
    sqlite3.connect(database=database, **options).close()
    attributes = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["db.system.name"] == "sqlite"
    assert attributes.get("db.namespace") == namespace


def test_cursors(path: str, reports: Reports) -> None:
    """The statements of cursors count, of whatever class these are; their classes keep their names."""

    def make(connection: sqlite3.Connection) -> sqlite3.Cursor:
        return sqlite3.Cursor(connection)

    connection = sqlite3.connect(path)
    connection.row_factory = sqlite3.Row
    plain, given = connection.cursor(), connection.cursor(Counting)
    named, made = connection.cursor(factory=Counting), connection.cursor(make)
    for cursor in (plain, given, named, made):
        assert [tuple(row) for row in cursor.execute(COUNT)] == [(3,)]
        assert cursor.connection is connection
    with pytest.raises(TypeError):
        connection.cursor(factory=None)
    connection.close()

    assert names(plain) == ("Cursor", "Cursor", "sqlite3", names(made)[3])
    assert not hasattr(plain, "__dict__")
    assert type(given) is type(named)
    assert names(given) == names(Counting(connect_before(":memory:")))
    assert type(made) is sqlite3.Cursor
    # Not that of the last one, which is no cursor of ours.
    assert reports.telemetry.span("hold").attributes["connleak.statements"] == 3  # type: ignore[index]


def test_calls(path: str, reports: Reports) -> None:
    """Whatever reads or writes is a call, and no call counts twice."""
    connection = sqlite3.connect(path)
    with connection:
        connection.executemany("INSERT INTO customers VALUES (?)", [("fay",), ("gus",)])
    connection.executescript("CREATE TABLE orders (id INTEGER); INSERT INTO orders VALUES (1)")
    connection.commit()
    connection.rollback()
    with contextlib.closing(connect_before(":memory:")) as copy:
        connection.backup(copy)
        assert copy.execute(COUNT).fetchone() == (5,)
    with connection.blobopen("customers", "name", 1, readonly=True) as blob:
        assert blob.read() == b"ada"
    connection.close()

    assert reports.telemetry.span("hold").attributes["connleak.statements"] == 7  # type: ignore[index]
