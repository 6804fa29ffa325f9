"""Transactions of psycopg2 and of its pools."""

import contextlib
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg2
import pytest
from psycopg2 import extensions, sql
from psycopg2.pool import SimpleConnectionPool, ThreadedConnectionPool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.adapters.test_psycopg2 import OldConnection, OwnConnection, end_session
from tests.support.reports import Reports
from tests.support.transactions import ADD, added, ended

SOON = 0.3
"""A threshold that is soon over, in seconds."""
WRONG = "SELECT nothing FROM nowhere"

shelf: list[Any] = []
"""Module state of the application."""


class OutOfStock(Exception):
    """An error of the application."""


def execute(connection: Any, *statements: Any) -> None:
    """Run statements with a cursor."""
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


# --- ways to end one ---------------------------------------------------------------------------------------


def commits(connection: Any) -> None:
    """Writes, and commits."""
    execute(connection, ADD)
    connection.commit()


def rolls_back(connection: Any) -> None:
    """Writes, and thinks better of it."""
    execute(connection, ADD)
    connection.rollback()


def reads(connection: Any) -> None:
    """Reads, and leaves the rest to whoever closes."""
    execute(connection, "SELECT 1", b"SELECT * FROM customers FOR UPDATE")


def block(connection: Any) -> None:
    """The block commits."""
    with connection, connection.cursor() as cursor:
        cursor.execute(ADD)


def block_left_by_error(connection: Any) -> None:
    """The block rolls back because of an error."""
    with contextlib.suppress(OutOfStock), connection:
        execute(connection, ADD)
        raise OutOfStock


def autocommits(connection: Any) -> None:
    """Each statement is its own transaction, of which nobody need know."""
    connection.autocommit = True
    execute(connection, ADD, "SELECT 1")


def by_text(connection: Any) -> None:
    """The application's own BEGIN and COMMIT."""
    connection.autocommit = True
    execute(connection, "BEGIN", ADD, "COMMIT")


def savepoint(connection: Any) -> None:
    """An error in a savepoint aborts nothing but that."""
    execute(connection, ADD, "SAVEPOINT once")
    with contextlib.suppress(psycopg2.Error):
        execute(connection, WRONG)
    execute(connection, "ROLLBACK TO once")
    connection.commit()


def composed(connection: Any) -> None:
    """The statement is put together, with a name that must be quoted."""
    query = sql.SQL("INSERT INTO {} VALUES ({}, 'new')").format(sql.Identifier("customers"), sql.Literal(4))
    execute(connection, query)
    connection.commit()


def many(connection: Any) -> None:
    """Writes several rows with one call."""
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO customers VALUES (%s, 'new')", [(4,), (5,)])
    connection.commit()


def copies(connection: Any) -> None:
    """COPY FROM is a write, by both methods; COPY TO is none."""
    with connection.cursor() as cursor:
        cursor.copy_expert("COPY customers FROM STDIN", io.StringIO("4\tnew\n"))
        cursor.copy_from(io.StringIO("5\tnew\n"), "customers")
        cursor.copy_to(io.StringIO(), "customers")
    connection.commit()


def calls_procedure(connection: Any) -> None:
    """What a function does nobody knows."""
    with connection.cursor() as cursor:
        cursor.callproc("version")
    connection.commit()


def two_phases(connection: Any) -> None:
    """The server keeps it between the two phases."""
    connection.tpc_begin(connection.xid(1, "orders", "shop"))
    execute(connection, ADD)
    connection.tpc_prepare()
    connection.tpc_commit()


def two_phases_rolled_back(connection: Any) -> None:
    """The other end of it."""
    connection.tpc_begin(connection.xid(1, "orders", "shop"))
    execute(connection, ADD)
    connection.tpc_prepare()
    connection.tpc_rollback()


def resets(connection: Any) -> None:
    """Rolls back on the way."""
    execute(connection, ADD)
    connection.reset()


def changes_isolation(connection: Any) -> None:
    """So does this."""
    execute(connection, ADD)
    connection.set_isolation_level(extensions.ISOLATION_LEVEL_AUTOCOMMIT)


def keeps_encoding(connection: Any) -> None:
    """This would, if it had to change anything."""
    execute(connection, ADD)
    connection.set_client_encoding(connection.encoding)
    connection.commit()


def in_error(connection: Any) -> None:
    """The server has aborted it, and there is nothing left to commit."""
    execute(connection, ADD)
    with contextlib.suppress(psycopg2.Error):
        execute(connection, WRONG)


WAYS: list[tuple[Callable[[Any], None], list[tuple[str, int, int]], int]] = [
    (commits, [("committed", 2, 1)], 1),
    (rolls_back, [("rolled_back", 2, 1)], 0),
    (reads, [("rolled_back", 2, 0)], 0),
    (block, [("committed", 2, 1)], 1),
    (block_left_by_error, [("rolled_back", 2, 1)], 0),
    (autocommits, [], 1),
    (by_text, [("committed", 3, 1)], 1),
    (savepoint, [("committed", 5, 1)], 1),
    (composed, [("committed", 2, 1)], 1),
    (many, [("committed", 2, 1)], 2),
    (copies, [("committed", 4, 2)], 2),
    (calls_procedure, [("committed", 2, 0)], 0),
    (two_phases, [("committed", 4, 1)], 1),
    (two_phases_rolled_back, [("rolled_back", 4, 1)], 0),
    (resets, [("rolled_back", 2, 1)], 0),
    (changes_isolation, [("rolled_back", 2, 1)], 0),
    (keeps_encoding, [("committed", 3, 1)], 1),
    (in_error, [("rolled_back", 2, 1)], 0),
]


@pytest.mark.parametrize("factory", [None, OwnConnection, OldConnection])
@pytest.mark.parametrize(("way", "expected", "rows"), WAYS, ids=[way.__name__ for way, _, _ in WAYS])
def test_way(
    way: Callable[[Any], None],
    expected: list[tuple[str, int, int]],
    rows: int,
    factory: Any,
    dsn: str,
    reports: Reports,
) -> None:
    """Each way to end a transaction: outcome, statements, writes; and none of them is a leak.

    What a cursor is asked that an application's old class makes past us is seen by nobody.
    """
    connection = psycopg2.connect(dsn, connection_factory=factory)
    way(connection)
    connection.close()
    reports.none()

    if factory is not OldConnection:
        assert [each[1:] for each in ended(reports)] == expected
        assert {each[0] for each in ended(reports)} <= {way.__name__, "execute"}
    assert added(dsn) == rows
    assert open_holds() == []


# --- writes that are discarded -----------------------------------------------------------------------------


@pytest.fixture(params=[SimpleConnectionPool, ThreadedConnectionPool])
def pool(request: pytest.FixtureRequest, dsn: str, reports: Reports) -> Iterator[Any]:
    """A pool of each class; the calls of a connection from before the start would not be seen."""
    pool = request.param(1, 4, dsn)
    yield pool
    if not pool.closed:
        pool.closeall()


class Orders:
    """A repository over a pool."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    def adds(self) -> None:
        """Forgets to commit."""
        connection = self.pool.getconn()
        connection.cursor().execute(ADD)
        self.pool.putconn(connection)

    def adds_and_closes(self) -> None:
        """Forgets to commit, and lets the pool close it."""
        connection = self.pool.getconn()
        connection.cursor().execute(ADD)
        self.pool.putconn(connection, close=True)

    def adds_by_key(self) -> None:
        """The same with a key of its own."""
        self.pool.getconn("orders").cursor().execute(ADD)
        self.pool.putconn(self.pool.getconn("orders"), "orders")

    def adds_and_closes_all(self) -> None:
        """Closes the pool while its own connection is out."""
        connection = self.pool.getconn()
        connection.cursor().execute(ADD)
        self.pool.closeall()

    def adds_by_helper(self) -> None:
        """Begins, and lets another function write."""
        connection = self.pool.getconn()
        connection.cursor().execute("SELECT 1")
        execute(connection, ADD)
        self.pool.putconn(connection)

    def adds_because_of_error(self) -> None:
        """The error was there before the transaction began, and is no reason for its end."""
        try:
            raise OutOfStock
        except OutOfStock:
            self.adds()

    def fails(self) -> None:
        """An error is the reason."""
        connection = self.pool.getconn()
        try:
            connection.cursor().execute(ADD)
            raise OutOfStock
        finally:
            self.pool.putconn(connection)

    def adds_in_block(self) -> None:
        """Commits."""
        connection = self.pool.getconn()
        try:
            with connection:
                connection.cursor().execute(ADD)
        finally:
            self.pool.putconn(connection)

    def reads(self) -> None:
        """Nothing is lost."""
        connection = self.pool.getconn()
        connection.cursor().execute("SELECT 1")
        self.pool.putconn(connection)


FORGETFUL = (
    "adds adds_and_closes adds_by_key adds_and_closes_all adds_by_helper adds_because_of_error".split()
)


@pytest.mark.parametrize("method", FORGETFUL)
def test_discarded(
    method: str, pool: Any, dsn: str, reports: Reports, caplog: pytest.LogCaptureFixture
) -> None:
    """Writes that the pool rolls back are reported, of the function that began the transaction."""
    getattr(Orders(pool), method)()
    leak = reports.leak()
    function = "adds" if method == "adds_because_of_error" else method

    assert (leak.function.rpartition(".")[2], leak.evidence) == (function, {"discarded"})
    assert leak.certainty == "confirmed"
    assert [(each[0], each[1], each[3]) for each in ended(reports)] == [(function, "discarded", 1)]
    assert "hint: use `with connection:`, which commits or rolls back" in caplog.text
    assert added(dsn) == 0
    assert open_holds() == []


LOOKS_LIKE_IT = [
    ("fails", "rolled_back", 0),
    ("adds_in_block", "committed", 1),
    ("reads", "rolled_back", 0),
]


@pytest.mark.parametrize(("method", "outcome", "rows"), LOOKS_LIKE_IT)
def test_no_leak(method: str, outcome: str, rows: int, pool: Any, dsn: str, reports: Reports) -> None:
    """What ends because of an error, or loses nothing, is no leak."""
    with contextlib.suppress(OutOfStock):
        getattr(Orders(pool), method)()
    reports.none()

    assert [each[:2] for each in ended(reports)] == [(method, outcome)]
    assert added(dsn) == rows
    assert open_holds() == []


def test_pool_that_is_closed_twice(pool: Any, reports: Reports) -> None:
    """The second time the pool refuses, and that is heard."""
    pool.closeall()
    with pytest.raises(psycopg2.pool.PoolError):
        pool.closeall()
    reports.none()


def test_prepared(pool: Any, dsn: str, reports: Reports) -> None:
    """What was prepared for two phases the server keeps without the connection."""
    connection = psycopg2.connect(dsn)
    xid = connection.xid(1, "orders", "shop")
    connection.tpc_begin(xid)
    execute(connection, ADD)
    connection.tpc_prepare()
    connection.close()
    reports.none()
    other = psycopg2.connect(dsn)
    other.tpc_commit(xid)
    other.close()
    reports.none()

    assert [each[1] for each in ended(reports)] == ["open"]
    assert added(dsn) == 1


def test_closed_directly(dsn: str, reports: Reports) -> None:
    """The end of a direct connection is the end of its transaction; ``with`` on a cursor commits nothing."""
    connection = psycopg2.connect(dsn)
    with connection.cursor() as cursor:
        cursor.execute(ADD)
    connection.close()

    assert reports.leak().evidence == {"discarded"}
    assert added(dsn) == 0


def test_broken(pool: Any, dsn: str, reports: Reports) -> None:
    """What the server has ended nobody could have committed."""
    connection = pool.getconn()
    execute(connection, ADD)
    end_session(dsn, connection)
    pool.putconn(connection)
    reports.none()

    assert "discarded" not in [each[1] for each in ended(reports)]


# --- left open ---------------------------------------------------------------------------------------------


def test_overdue(dsn: str, instrument: Instrument) -> None:
    """A connection that lies idle in a transaction is reported; with it the transaction, in one report."""
    reports = instrument(overdue_after=SOON)
    connection = psycopg2.connect(dsn)
    execute(connection, ADD)
    leak = reports.leak()
    connection.commit()
    connection.close()

    assert (leak.attributes["connleak.resource"], leak.evidence) == ("connection", {"overdue"})


def test_idle_under_a_key(dsn: str, instrument: Instrument) -> None:
    """A connection under a key is nobody's, and so is its transaction; but that must not lie idle."""
    reports = instrument(overdue_after=SOON)
    pool = ThreadedConnectionPool(1, 4, dsn)

    def works() -> None:
        pool.getconn("orders").cursor().execute("SELECT 1")

    works()
    leak = reports.leak()
    pool.getconn("orders").commit()
    pool.closeall()

    assert (leak.function.rpartition(".")[2], leak.evidence) == ("works", {"overdue"})
    assert leak.attributes["connleak.resource"] == "transaction"
    assert reports.recovery().id == leak.id


def test_kept_in_module(dsn: str, reports: Reports) -> None:
    """A worker's own connection lives on; a transaction that its thread leaves behind is a leak."""

    def works() -> None:
        execute(shelf[0], ADD)

    shelf.append(psycopg2.connect(dsn))
    thread = threading.Thread(target=works)
    thread.start()
    thread.join()
    leak = reports.leak()
    connection = shelf.pop()
    connection.rollback()
    connection.close()

    assert leak.attributes["connleak.resource"] == "transaction"
    assert "thread_ended" in leak.evidence
    assert reports.recovery().id == leak.id
