"""Direct connections of PyMySQL."""

import functools
import gc
from collections.abc import Callable
from typing import Any

import pymysql
import pytest
from pymysql.cursors import SSCursor
from sqlalchemy import create_engine, text

from otel_connleak import open_holds
from otel_connleak.connection import Transaction
from otel_connleak.drivers import driver_of
from tests.adapters.conftest import Instrument
from tests.adapters.contract import SyncContract
from tests.adapters.library import Library
from tests.adapters.shop.keeping import Cycle
from tests.support.mariadb import Database
from tests.support.reports import NEVER, Reports, held

connect_before = pymysql.connect
"""The function as an application has it that imported it before the instrumentation started."""


class Direct(Library):
    """``pymysql.connect``."""

    connection_type = pymysql.connections.Connection

    def __init__(self, database: Database) -> None:
        self.database = database

    @property
    def acquire(self) -> Callable[[], Any]:
        """Connect."""
        return functools.partial(pymysql.connect, **self.database.parameters)

    @property
    def release(self) -> Callable[[Any], Any]:
        """Close."""
        return pymysql.connections.Connection.close

    @property
    def refuse(self) -> Callable[[], Any]:
        """Ask for a database that is not there: PyMySQL leaves a socket open where nobody listens."""
        return functools.partial(pymysql.connect, **self.database.parameters | {"database": "nowhere"})

    def execute(self, connection: Any, query: str) -> Any:
        """Run a query in a transaction."""
        connection.begin()
        with connection.cursor() as cursor:
            cursor.execute(query)

    def facts(self, connection: Any) -> dict[str, Any]:
        """What PyMySQL tells."""
        return {
            "db.system.name": "mariadb",
            "db.namespace": self.database.name,
            "server.address": self.database.server.socket,
            "connleak.server.pid": connection.thread_id(),
        }


class TestConnection(SyncContract):
    """``pymysql.connect``."""

    @pytest.fixture
    def library(self, database: Database) -> Library:
        """Direct connections."""
        return Direct(database)


class OwnConnection(pymysql.connections.Connection):
    """An application's own class of connections."""

    def __init__(self, **parameters: Any) -> None:
        super().__init__(**parameters)
        self.tenant = "own"


def end_session(database: Database, connection: Any) -> None:
    """End the server's side of a connection, and let the connection notice."""
    database.server.kill(connection.thread_id())
    with pytest.raises(pymysql.err.OperationalError):
        connection.query("SELECT 1")


@pytest.mark.parametrize(
    "connect",
    [pymysql.connect, pymysql.Connect, pymysql.connections.Connection, connect_before, OwnConnection],
)
def test_way_to_connect(connect: Any, database: Database, reports: Reports) -> None:
    """Each way to connect makes one hold, which ends with the ``with`` block that closes the connection."""
    with connect(**database.parameters):
        (hold,) = open_holds()

    assert (hold.function.rpartition(".")[2], hold.pool) == ("test_way_to_connect", None)
    assert open_holds() == []
    assert reports.hold_names() == ["test_way_to_connect"]


def test_by_network(database: Database, reports: Reports) -> None:
    """Over the network a hold knows the server's address and port."""
    pymysql.connect(**database.by_network).close()
    attributes: dict[str, Any] = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["server.address"] == "127.0.0.1"
    assert attributes["server.port"] == database.server.port


def test_connected_later(database: Database, reports: Reports) -> None:
    """Who connects holds it, not who made the object."""

    def connects(connection: Any) -> None:
        connection.connect()

    connection: Any = pymysql.connect(defer_connect=True, **database.parameters)
    assert open_holds() == []
    connects(connection)
    (hold,) = open_holds()
    connection.close()

    assert hold.function.endswith("connects")
    assert reports.hold_names() == ["test_connected_later.connects"]


def test_connect_fails_late(database: Database, reports: Reports) -> None:
    """A connection that was refused after the network was there is no hold."""
    with pytest.raises(pymysql.err.ProgrammingError):
        pymysql.connect(**database.parameters | {"init_command": "nonsense"})

    assert open_holds() == []
    assert reports.hold_names() == []


def test_connects_anew(database: Database, reports: Reports) -> None:
    """A connection object that connects anew goes on being held, with another process of the server."""
    connection: Any = pymysql.connect(**database.parameters)
    first = connection.thread_id()
    database.server.kill(first)
    with pytest.warns(DeprecationWarning, match="'reconnect'"):
        connection.ping(reconnect=True)
    (hold,) = open_holds()

    assert hold.server_pid == connection.thread_id() != first
    connection.close()
    assert reports.hold_names() == ["test_connects_anew"]
    assert (reports.telemetry.span("hold").attributes or {})["connleak.server.pid"] == hold.server_pid


def test_cannot_connect_anew(database: Database, reports: Reports) -> None:
    """Where that fails nothing is held any more."""
    connection: Any = pymysql.connect(**database.parameters)
    database.server.kill(connection.thread_id())
    connection.unix_socket = "/nowhere"
    with (
        pytest.warns(DeprecationWarning, match="'reconnect'"),
        pytest.raises(pymysql.err.OperationalError, match="No such file"),
    ):
        connection.ping(reconnect=True)

    assert open_holds() == []
    assert reports.hold_names() == ["test_cannot_connect_anew"]


def test_server_ends_it(database: Database, reports: Reports) -> None:
    """PyMySQL closes a connection that the server has ended: nothing is held, whoever still refers to it."""

    def leave_it() -> None:
        connection: Any = pymysql.connect(**database.parameters)
        end_session(database, connection)
        Cycle(connection)

    leave_it()
    reports.none()
    gc.collect()
    reports.none()

    assert open_holds() == []
    assert len(reports.hold_names()) == 1


def test_used_after_the_end(database: Database, reports: Reports) -> None:
    """After that, whoever pings the connection to life again holds it."""
    connection: Any = pymysql.connect(**database.parameters)
    end_session(database, connection)
    with pytest.warns(DeprecationWarning, match="'reconnect'"):
        connection.ping(reconnect=True)
    (hold,) = open_holds()

    assert hold.server_pid == connection.thread_id()
    connection.close()
    assert open_holds() == []


def test_ping(database: Database, reports: Reports) -> None:
    """A ping of a connection that lives, or was closed, changes nothing."""
    connection: Any = pymysql.connect(**database.parameters)
    connection.ping()
    assert len(open_holds()) == 1
    connection.close()
    with pytest.raises(pymysql.err.Error, match="Already closed"):
        connection.ping()

    assert reports.hold_names() == ["test_ping"]


def test_ping_fails_for_another_reason(database: Database, reports: Reports) -> None:
    """An error of a ping that leaves the connection open ends nothing."""
    connection: Any = pymysql.connect(**database.parameters)
    cursor = connection.cursor(SSCursor)
    cursor.execute("SELECT id FROM customers")
    with pytest.raises(UserWarning, match="left incomplete"):  # warnings are errors here
        connection.ping()

    assert connection.open
    assert held() == 1
    cursor.close()
    connection.close()


def test_not_known(database: Database, instrument: Instrument) -> None:
    """A connection from before the start of the instrumentation is not known, also when it connects anew."""
    connection: Any = pymysql.connect(**database.parameters)
    reports = instrument()
    database.server.kill(connection.thread_id())
    with pytest.warns(DeprecationWarning, match="'reconnect'"):
        connection.ping(reconnect=True)
    assert open_holds() == []
    connection.close()

    assert reports.hold_names() == []


def test_unread_result(database: Database, instrument: Instrument) -> None:
    """A connection that is dropped with rows still to be read is reported at once, like any other."""
    reports = instrument(grace=NEVER)

    def reads_one() -> None:
        connection: Any = pymysql.connect(**database.parameters)
        cursor = connection.cursor(SSCursor)
        cursor.execute("SELECT id FROM customers")
        assert cursor.fetchone() == (1,)

    reads_one()
    leak = reports.leak()

    assert leak.function.endswith("reads_one")
    assert leak.certainty == "confirmed"


def test_fetches_are_calls(database: Database, reports: Reports) -> None:
    """The rows of an unbuffered result come over the network one by one: that is not idle time."""
    with pymysql.connect(**database.parameters) as connection, connection.cursor(SSCursor) as cursor:
        cursor.execute("SELECT id FROM customers")
        assert len(cursor.fetchall()) == 3
    attributes: dict[str, Any] = dict(reports.telemetry.span("hold").attributes or {})

    assert attributes["connleak.statements"] >= 5  # the query, three rows, and their end


@pytest.mark.parametrize(
    ("statement", "autocommit", "expected"),
    [
        ("UPDATE customers SET name = 'nobody'", False, Transaction.OPEN),
        ("UPDATE customers SET name = 'nobody'", True, Transaction.NONE),
        ("BEGIN", True, Transaction.OPEN),
        ("COMMIT", False, Transaction.NONE),
        ("SELECT count(*) FROM customers", False, Transaction.OPEN),
        ("SELECT 1", False, Transaction.NONE),
        ("SELECT count(*) FROM customers", True, Transaction.NONE),
    ],
)
def test_transaction(
    statement: str, autocommit: bool, expected: Transaction, database: Database, reports: Reports
) -> None:
    """The transaction status is what the server has said last, without a round trip."""
    connection: Any = pymysql.connect(autocommit=autocommit, **database.parameters)
    connection.query(statement)

    assert driver_of(connection).transaction(connection) is expected
    connection.close()
    assert driver_of(connection).transaction(connection) is Transaction.NONE


def test_transaction_before_the_instrumentation(database: Database, instrument: Instrument) -> None:
    """What the driver does not keep is not known of rows that were read before."""
    connection: Any = pymysql.connect(**database.parameters)
    connection.query("SELECT count(*) FROM customers")
    assert driver_of(connection).transaction(connection) is Transaction.UNKNOWN
    instrument()
    connection.query("SELECT count(*) FROM customers")
    assert driver_of(connection).transaction(connection) is Transaction.OPEN
    connection.commit()
    assert driver_of(connection).transaction(connection) is Transaction.NONE
    connection.close()


@pytest.mark.parametrize("statements", ["off", "summary"])
def test_statements(statements: str, database: Database, instrument: Instrument) -> None:
    """The last statement is shown only where it may be."""
    reports = instrument(statements=statements)

    def keeps() -> None:
        connection: Any = pymysql.connect(**database.parameters)
        connection.query("SELECT name FROM customers WHERE name = 'secret'")
        connection.commit()
        Cycle(connection)

    keeps()
    shown = reports.leak().attributes.get("db.query.summary")

    assert shown == (None if statements == "off" else "SELECT … FROM customers")


def test_below_sqlalchemy(database: Database, reports: Reports) -> None:
    """What SQLAlchemy connects is no direct connection of the application's."""
    engine = create_engine("mysql+pymysql://", connect_args=database.parameters)
    with engine.connect() as connection:
        connection.execute(text("SELECT 1"))
        assert [hold for hold in open_holds() if hold.pool is None] == []
    engine.dispose()
    reports.none()


def test_below_a_keeper(database: Database, reports: Reports) -> None:
    """What a library connects that keeps connections is no direct one, also if it has no adapter here."""
    library: dict[str, Any] = {"__name__": "pony.orm", "connect": pymysql.connect}
    exec("def database(**parameters):\n    return connect(**parameters)", library)  # as a module is made
    connection = library["database"](**database.parameters)

    assert open_holds() == []
    connection.close()
    assert reports.hold_names() == []
