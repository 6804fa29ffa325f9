"""The pool and the direct connections of mysql-connector-python."""

import functools
import gc
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import mysql.connector
import pytest
from mysql.connector import errors
from mysql.connector.pooling import MySQLConnectionPool, PooledMySQLConnection
from sqlalchemy import create_engine, text

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.mariadb import Database
from tests.support.reports import NEVER, Reports, held

connect_before = mysql.connector.connect
"""The function as an application has it that imported it before the instrumentation started."""

# The driver sends the current span along, if there is one; MariaDB has nothing to send it in.
pytestmark = pytest.mark.filterwarnings("ignore:This version of the server does not support Query Attributes")

PURE = [pytest.param(True, id="pure")]
"""Values of the parameter ``use_pure``: the driver in Python, and the C extension if that can be loaded."""
if mysql.connector.HAVE_CEXT:
    PURE.append(pytest.param(False, id="extension"))


class ConnectorLibrary(Library):
    """What the pool and direct connections have in common."""

    def __init__(self, database: Database, *, pure: bool) -> None:
        self.database = database
        self.parameters = database.parameters | {"use_pure": pure}

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query."""
        with connection.cursor() as cursor:
            cursor.execute(query)
            cursor.fetchall()

    def facts(self, connection: Any) -> dict[str, Any]:
        """What the driver tells."""
        return {
            "db.system.name": "mariadb",
            "db.namespace": self.database.name,
            "server.address": self.database.server.socket,
            "connleak.server.pid": connection.connection_id,
        }


class Direct(ConnectorLibrary):
    """``mysql.connector.connect``."""

    def __init__(self, database: Database, *, pure: bool) -> None:
        super().__init__(database, pure=pure)
        self.connection_type = mysql.connector.MySQLConnection if pure else mysql.connector.CMySQLConnection

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(mysql.connector.connect, **self.parameters)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        release: Callable[[Any], Any] = self.connection_type.close  # type: ignore[attr-defined]
        return release

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask for a database that is not there: the driver leaves a socket open where nobody listens."""
        return functools.partial(mysql.connector.connect, **self.parameters | {"database": "nowhere"})


class Pooled(ConnectorLibrary):
    """``get_connection`` of a pool."""

    connection_type = PooledMySQLConnection
    pool = "orders"
    maximum = 2

    def __init__(self, database: Database, *, pure: bool) -> None:
        super().__init__(database, pure=pure)
        self.connections = MySQLConnectionPool(pool_name="orders", pool_size=2, **self.parameters)
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


class TestConnection(SyncContract):
    """``mysql.connector.connect``."""

    @pytest.fixture(params=PURE)
    def library(self, database: Database, request: pytest.FixtureRequest) -> Library:
        """Direct connections."""
        return Direct(database, pure=request.param)


class TestPool(SyncContract):
    """``MySQLConnectionPool.get_connection``."""

    @pytest.fixture(params=PURE)
    def library(self, database: Database, request: pytest.FixtureRequest) -> Library:
        """A pool of two connections."""
        return Pooled(database, pure=request.param)


def test_extension() -> None:
    """The other tests were run with the C extension too."""
    if not mysql.connector.HAVE_CEXT:
        pytest.skip(
            "the C extension of mysql-connector-python cannot be loaded in this process: it needs the OpenSSL"
            " that it comes with, and another one is in use; `make test-mysql` lets its own be found first"
        )
    assert len(PURE) == 2


class OwnConnection(mysql.connector.MySQLConnection):
    """An application's own class of connections."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.tenant = "own"


@pytest.fixture(params=PURE)
def parameters(database: Database, request: pytest.FixtureRequest) -> dict[str, Any]:
    """Connects with one kind of the driver or the other."""
    return database.parameters | {"use_pure": request.param}


def end_session(database: Database, connection: Any) -> None:
    """End the server's side of a connection."""
    database.server.kill(connection.connection_id)


# --- direct connections ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "connect",
    [
        mysql.connector.connect,
        mysql.connector.Connect,
        connect_before,
        mysql.connector.MySQLConnection,
        OwnConnection,
    ],
)
def test_way_to_connect(connect: Any, database: Database, reports: Reports) -> None:
    """Each way to connect makes one hold, which ends with the ``with`` block that closes the connection."""
    with connect(**database.parameters):
        (hold,) = open_holds()

    assert (hold.function.rpartition(".")[2], hold.pool) == ("test_way_to_connect", None)
    assert open_holds() == []
    assert reports.hold_names() == ["test_way_to_connect"]


@pytest.mark.parametrize("close", ["close", "disconnect", "shutdown"])
def test_way_to_close(close: str, database: Database, reports: Reports) -> None:
    """Each way to close ends it; to close once more is harmless."""
    connection = mysql.connector.connect(use_pure=True, **database.parameters)
    getattr(connection, close)()
    assert open_holds() == []
    connection.close()

    assert reports.hold_names() == ["test_way_to_close"]


def test_by_network(database: Database, reports: Reports) -> None:
    """Over the network a hold knows the server's address and port."""
    mysql.connector.connect(use_pure=True, **database.by_network).close()
    attributes: dict[str, Any] = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == database.server.port


def test_connected_later(parameters: dict[str, Any], reports: Reports) -> None:
    """Who connects holds it, not who made the object."""

    def connects(connection: Any) -> None:
        connection.connect(**parameters)

    pure = parameters.pop("use_pure")
    connection = mysql.connector.connect(use_pure=pure)
    assert open_holds() == []
    connects(connection)
    (hold,) = open_holds()
    connection.close()

    assert hold.function.endswith("connects")
    assert reports.hold_names() == ["test_connected_later.connects"]


def test_connect_fails_late(parameters: dict[str, Any], reports: Reports) -> None:
    """A connection that was refused after the network was there is no hold."""
    with pytest.raises(errors.ProgrammingError):
        mysql.connector.connect(**parameters | {"init_command": "nonsense"})

    assert open_holds() == []
    assert reports.hold_names() == []


@pytest.mark.parametrize("way", ["reconnect", "ping", "connect"])
def test_connects_anew(way: str, database: Database, parameters: dict[str, Any], reports: Reports) -> None:
    """A connection object that connects anew goes on being held, with another process of the server."""
    connection: Any = mysql.connector.connect(**parameters)
    first = connection.connection_id
    end_session(database, connection)
    if way == "ping":
        connection.ping(reconnect=True)
    else:
        getattr(connection, way)()
    (hold,) = open_holds()

    assert hold.server_pid == connection.connection_id != first
    connection.close()
    assert reports.hold_names() == ["test_connects_anew"]


def test_connects_anew_at_the_second_attempt(
    database: Database, parameters: dict[str, Any], reports: Reports
) -> None:
    """The hold goes on over an attempt that fails."""
    connection: Any = mysql.connector.connect(**parameters)
    end_session(database, connection)

    def fails_once() -> None:
        del connection._post_connection
        raise errors.InterfaceError("not yet")

    connection._post_connection = fails_once
    connection.reconnect(attempts=2)

    assert len(open_holds()) == 1
    connection.close()
    assert reports.hold_names() == ["test_connects_anew_at_the_second_attempt"]


def test_cannot_connect_anew(database: Database, parameters: dict[str, Any], reports: Reports) -> None:
    """Where that fails nothing is held any more."""
    connection: Any = mysql.connector.connect(**parameters)
    end_session(database, connection)
    connection.config(database="nowhere")
    with pytest.raises(errors.InterfaceError):
        connection.ping(reconnect=True, attempts=2)

    assert open_holds() == []
    assert reports.hold_names() == ["test_cannot_connect_anew"]


@pytest.mark.parametrize("notice", ["cursor", "execute", "is_connected", "commit", "ping"])
def test_server_ends_it(
    notice: str, database: Database, parameters: dict[str, Any], reports: Reports
) -> None:
    """A connection that the server has ended holds nothing once the driver has noticed."""

    def leave_it() -> None:
        connection: Any = mysql.connector.connect(**parameters)
        cursor = connection.cursor()
        end_session(database, connection)
        if notice == "is_connected":
            assert not connection.is_connected()
        else:
            with pytest.raises(Exception, match=r"(?i)connection|gone away"):
                cursor.execute("SELECT 1") if notice == "execute" else getattr(connection, notice)()
        Cycle(connection)

    leave_it()
    reports.none()
    gc.collect()
    reports.none()

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_used_after_the_end(database: Database, parameters: dict[str, Any], reports: Reports) -> None:
    """After that, whoever connects it anew holds it."""
    connection: Any = mysql.connector.connect(**parameters)
    end_session(database, connection)
    assert not connection.is_connected()
    assert open_holds() == []
    connection.reconnect()
    assert len(open_holds()) == 1
    connection.close()

    assert open_holds() == []
    assert len(reports.hold_names()) == 2


def test_unread_result(parameters: dict[str, Any], reports: Reports) -> None:
    """With rows to read the driver says that it is not connected, or does not say: it is held anyway."""
    connection: Any = mysql.connector.connect(**parameters)
    cursor = connection.cursor()
    cursor.execute("SELECT id FROM customers")
    with suppress(errors.InternalError):
        assert not connection.is_connected()
    assert held() == 1
    assert len(cursor.fetchall()) == 3
    connection.close()

    assert reports.hold_names() == ["test_unread_result"]


def test_dropped_with_unread_result(parameters: dict[str, Any], instrument: Instrument) -> None:
    """A cursor does not keep its connection: who has only that has lost it."""
    reports = instrument(grace=NEVER)
    cursors: list[Any] = []

    def reads_one() -> None:
        connection: Any = mysql.connector.connect(**parameters)
        cursors.append(connection.cursor())
        cursors[0].execute("SELECT id FROM customers")
        assert cursors[0].fetchone() == (1,)

    reads_one()

    assert reports.leak().certainty == "confirmed"


def test_prepared_statement(parameters: dict[str, Any], reports: Reports) -> None:
    """The statement of a prepared cursor is shown."""

    def keeps() -> None:
        connection: Any = mysql.connector.connect(**parameters)
        cursor = connection.cursor(prepared=True)
        cursor.execute("SELECT name FROM customers WHERE id = ?", (1,))
        assert cursor.fetchall() == [("customer 1",)]
        Cycle(connection)

    keeps()

    assert reports.leak().attributes["db.query.summary"] == "SELECT … FROM customers"


def test_statements_off(parameters: dict[str, Any], instrument: Instrument) -> None:
    """The last statement is kept only where it may be shown."""
    reports = instrument(statements="off")

    def keeps() -> None:
        connection: Any = mysql.connector.connect(**parameters)
        connection.cmd_query("UPDATE customers SET name = 'secret'")
        Cycle(connection)

    keeps()
    attributes = reports.leak().attributes

    assert "db.query.summary" not in attributes
    assert attributes["connleak.transaction.outcome"] == "open"


def test_below_sqlalchemy(parameters: dict[str, Any], reports: Reports) -> None:
    """What SQLAlchemy connects is no direct connection of the application's."""
    engine = create_engine("mysql+mysqlconnector://", connect_args=parameters)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert [hold for hold in open_holds() if hold.pool is None] == []
    engine.dispose()
    reports.none()


# --- the pool ----------------------------------------------------------------------------------------------


@pytest.fixture
def pool(parameters: dict[str, Any]) -> MySQLConnectionPool:
    """A pool of two connections."""
    return MySQLConnectionPool(pool_name="orders", pool_size=2, **parameters)


def test_pool_connects(parameters: dict[str, Any], reports: Reports) -> None:
    """What the pool connects in advance is no hold; ``with`` gives a connection back."""
    pool = MySQLConnectionPool(pool_name="orders", pool_size=2, **parameters)
    assert open_holds() == []
    with pool.get_connection():
        (hold,) = open_holds()
        assert (hold.pool, hold.function.rpartition(".")[2]) == ("orders", "test_pool_connects")

    assert open_holds() == []
    assert reports.hold_names() == ["test_pool_connects"]


def test_pool_by_connect(
    parameters: dict[str, Any], reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``connect`` with the name of a pool makes it, and gives a connection of it."""
    monkeypatch.setattr("mysql.connector.pooling._CONNECTION_POOLS", {})
    for _ in range(2):
        connection = mysql.connector.connect(pool_name="by_connect", pool_size=1, **parameters)
        assert [hold.pool for hold in open_holds()] == ["by_connect"]
        connection.close()

    assert open_holds() == []
    assert reports.hold_names() == ["test_pool_by_connect"] * 2


def test_exhausted(pool: MySQLConnectionPool, reports: Reports) -> None:
    """A pool that has lost its slots refuses; the reports have said who lost them."""

    def forgets() -> None:
        pool.get_connection()

    forgets()
    forgets()
    reports.settle()
    with pytest.raises(errors.PoolError, match="pool exhausted"):
        pool.get_connection()

    assert [leak.certainty for leak in reports.leaks()] == ["confirmed"] * 2
    assert open_holds() == []


def test_given_back_twice(pool: MySQLConnectionPool, reports: Reports) -> None:
    """The library then puts a connection more into the pool: that is none of the application's."""
    first, second = pool.get_connection(), pool.get_connection()
    first.close()
    with pytest.raises(AttributeError):
        first.close()
    assert len(open_holds()) == 1
    with pytest.raises(errors.PoolError, match="queue is full"):
        second.close()
    reports.none()

    assert open_holds() == []
    assert len(reports.hold_names()) == 2


def test_pool_connects_anew(database: Database, pool: MySQLConnectionPool, reports: Reports) -> None:
    """The pool connects anew what the server has ended: the next hold knows the new process of the server."""
    seen = set()
    for _ in range(4):
        with pool.get_connection() as connection:
            (hold,) = open_holds()
            assert hold.server_pid == connection.connection_id
            seen.add(connection.connection_id)
        assert hold.server_pid is not None
        database.server.kill(hold.server_pid)
    reports.none()

    assert len(seen) == 4
    assert open_holds() == []


def test_disconnected_in_place_of_closed(pool: MySQLConnectionPool, reports: Reports) -> None:
    """To end its session does not give a connection back to the pool."""

    def disconnects() -> None:
        connection = pool.get_connection()
        connection.disconnect()
        Cycle(connection)

    disconnects()

    assert reports.leak().function.endswith("disconnects")


def test_given_to_the_pool(parameters: dict[str, Any], pool: MySQLConnectionPool, reports: Reports) -> None:
    """A direct connection that is given to a pool is the pool's from then on; one that it refuses is not."""
    connection: Any = mysql.connector.connect(**parameters)
    with pytest.raises(errors.PoolError, match="queue is full"):
        pool.add_connection(connection)
    assert [hold.pool for hold in open_holds()] == [None]
    taken = pool.get_connection()
    pool.add_connection(connection)
    assert [hold.pool for hold in open_holds()] == ["orders"]
    with pytest.raises(errors.PoolError, match="queue is full"):
        taken.close()
    reports.none()

    assert open_holds() == []


def test_server_ends_pooled(database: Database, pool: MySQLConnectionPool, reports: Reports) -> None:
    """A connection that the server has ended still has its slot, until it is given back."""
    connection: Any = pool.get_connection()
    end_session(database, connection)
    assert not connection.is_connected()
    assert len(open_holds()) == 1
    with pytest.raises(errors.OperationalError):
        connection.close()  # it resets the session, and gives it back all the same
    reports.none()

    assert open_holds() == []
    assert pool._cnx_queue.full()


def test_session_cannot_be_reset(pool: MySQLConnectionPool, reports: Reports) -> None:
    """Where a session cannot be reset the pool connects anew when it is given back: that is no hold."""

    def refuses(*_credentials: object) -> None:
        raise errors.ProgrammingError

    connection: Any = pool.get_connection()
    old = connection._cnx
    old.cmd_reset_connection = lambda: False  # as a server before 5.7.3 answers
    old.cmd_change_user = refuses
    first = old.connection_id
    connection.close()

    assert old.connection_id != first
    assert open_holds() == []
    assert reports.hold_names() == ["test_session_cannot_be_reset"]
