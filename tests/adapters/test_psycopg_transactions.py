"""Transactions of psycopg 3: when they begin, how they end, and which writes are discarded."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg_pool import AsyncConnectionPool, ConnectionPool

from otel_connleak import open_holds
from tests.adapters.conftest import Instrument
from tests.support.reports import Reports
from tests.support.transactions import ADD, added, ended

SOON = 0.3
"""A threshold that is soon over, in seconds."""
WRONG = "SELECT nothing FROM nowhere"


shelf: list[Any] = []
"""Module state of the application."""


class OutOfStock(Exception):
    """An error of the application."""


# --- ways to end one ---------------------------------------------------------------------------------------


def commits(connection: Any) -> None:
    """Writes, and commits."""
    connection.execute(ADD)
    connection.commit()


def rolls_back(connection: Any) -> None:
    """Writes, and thinks better of it."""
    connection.execute(ADD)
    connection.rollback()


def reads(connection: Any) -> None:
    """Reads, and leaves the rest to the pool."""
    connection.execute("SELECT 1")


def block(connection: Any) -> None:
    """The block commits."""
    with connection.transaction():
        connection.execute(ADD)


def blocks(connection: Any) -> None:
    """A block in a block is a savepoint."""
    with connection.transaction(), connection.transaction():
        connection.execute(ADD)
        with connection.transaction():
            connection.execute(ADD)


def block_in_error(connection: Any) -> None:
    """An error leaves a block in a block: only that is rolled back."""
    with connection.transaction():
        connection.execute(ADD)
        with contextlib.suppress(psycopg.Error), connection.transaction():
            connection.execute(WRONG)


def rolled_back_block(connection: Any) -> None:
    """The block rolls back, whatever happens."""
    with connection.transaction(force_rollback=True):
        connection.execute(ADD)


def block_left_by_error(connection: Any) -> None:
    """The block rolls back because of an error."""
    with contextlib.suppress(OutOfStock), connection.transaction():
        connection.execute(ADD)
        raise OutOfStock


def autocommits(connection: Any) -> None:
    """Each statement is its own transaction, of which nobody need know."""
    connection.autocommit = True
    connection.execute(ADD)
    connection.execute("SELECT 1")


def block_with_autocommit(connection: Any) -> None:
    """A block is a transaction, and what comes after is none."""
    connection.autocommit = True
    block(connection)
    connection.execute("SELECT 1")


def by_text(connection: Any) -> None:
    """The application's own BEGIN and COMMIT."""
    connection.autocommit = True
    connection.execute("BEGIN")
    connection.execute(sql.SQL(ADD))
    connection.execute(b"COMMIT")


def many(connection: Any) -> None:
    """Writes several rows with one call."""
    with connection.cursor() as cursor:
        cursor.executemany("INSERT INTO customers VALUES (%s, 'new')", [(4,), (5,)])
    connection.commit()


def copies(connection: Any) -> None:
    """COPY is a write."""
    with connection.cursor().copy("COPY customers FROM STDIN") as copy:
        copy.write_row((4, "new"))
        copy.write_row((5, "new"))
    connection.commit()


def streams(connection: Any) -> None:
    """So is what gives its rows one by one."""
    for _ in connection.cursor().stream(f"{ADD} RETURNING id"):
        pass
    connection.commit()


def pipeline(connection: Any) -> None:
    """Sends one after the other, and waits for neither."""
    with connection.pipeline():
        connection.execute(ADD)
        connection.execute(ADD)
        connection.execute("SELECT 1")
    connection.commit()


def pipeline_with_block(connection: Any) -> None:
    """A block in a pipeline."""
    connection.autocommit = True
    with connection.pipeline(), connection.transaction():
        connection.execute(ADD)


def two_phases(connection: Any) -> None:
    """The server keeps it between the two phases."""
    connection.tpc_begin("orders")
    connection.execute(ADD)
    connection.tpc_prepare()
    connection.tpc_commit()


def one_phase(connection: Any) -> None:
    """Never prepared."""
    connection.tpc_begin("orders")
    connection.execute(ADD)
    connection.tpc_commit()


def in_error(connection: Any) -> None:
    """The server has aborted it, and there is nothing left to commit."""
    connection.execute(ADD)
    with contextlib.suppress(psycopg.Error):
        connection.execute(WRONG)


WAYS: list[tuple[Callable[[Any], None], list[tuple[str, int, int]], int]] = [
    (commits, [("committed", 2, 1)], 1),
    (rolls_back, [("rolled_back", 2, 1)], 0),
    (reads, [("rolled_back", 1, 0)], 0),
    (block, [("committed", 3, 1)], 1),
    (blocks, [("committed", 8, 2)], 2),
    (block_in_error, [("committed", 6, 1)], 1),
    (rolled_back_block, [("rolled_back", 3, 1)], 0),
    (block_left_by_error, [("rolled_back", 3, 1)], 0),
    (autocommits, [], 1),
    (block_with_autocommit, [("committed", 3, 1)], 1),
    (by_text, [("committed", 3, 1)], 1),
    (many, [("committed", 3, 1)], 2),
    (copies, [("committed", 4, 1)], 2),
    (streams, [("committed", 4, 1)], 1),
    (pipeline, [("committed", 5, 2)], 2),
    (pipeline_with_block, [("committed", 4, 1)], 1),
    (two_phases, [("committed", 4, 1)], 1),
    (one_phase, [("committed", 3, 1)], 1),
    (in_error, [("rolled_back", 2, 1)], 0),
]


@pytest.mark.parametrize(("way", "expected", "rows"), WAYS, ids=[way.__name__ for way, _, _ in WAYS])
def test_way(
    way: Callable[[Any], None],
    expected: list[tuple[str, int, int]],
    rows: int,
    dsn: str,
    reports: Reports,
) -> None:
    """Each way to end a transaction: outcome, statements, writes; and none of them is a leak."""
    connection = psycopg.connect(dsn)
    way(connection)
    connection.close()
    reports.none()

    assert [each[1:] for each in ended(reports)] == expected
    assert {each[0] for each in ended(reports)} <= {way.__name__, "block"}
    assert added(dsn) == rows


# --- writes that are discarded -----------------------------------------------------------------------------


class Orders:
    """A repository over a pool, whose methods forget to commit."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.pool = pool

    @contextlib.contextmanager
    def connection(self) -> Iterator[Any]:
        """Gives the connection back, whatever happens."""
        connection = self.pool.getconn()
        try:
            yield connection
        finally:
            self.pool.putconn(connection)

    def adds(self) -> None:
        """Forgets."""
        with self.connection() as connection:
            connection.execute(ADD)

    def adds_many(self) -> None:
        """Writes several rows."""
        with self.connection() as connection, connection.cursor() as cursor:
            cursor.executemany("INSERT INTO customers VALUES (%s, 'new')", [(4,), (5,)])

    def copies(self) -> None:
        """Copies several rows."""
        with self.connection() as connection, connection.cursor().copy("COPY customers FROM STDIN") as copy:
            copy.write_row((4, "new"))

    def sends(self) -> None:
        """Sends several statements at once."""
        with self.connection() as connection, connection.pipeline():
            connection.execute(ADD)
            connection.execute("SELECT 1")

    def adds_after_read(self) -> None:
        """The read has begun a transaction: the block is only a savepoint, and commits nothing."""
        with self.connection() as connection:
            connection.execute("SELECT 1")
            with connection.transaction():
                connection.execute(ADD)

    def adds_by_helper(self) -> None:
        """Begins, and lets another function write."""
        with self.connection() as connection:
            connection.execute("SELECT 1")
            helper(connection)

    def adds_because_of_error(self) -> None:
        """The error was there before the transaction began, and is no reason for its end."""
        try:
            raise OutOfStock
        except OutOfStock:
            self.adds()


def helper(connection: Any) -> None:
    """Writes for somebody."""
    connection.execute(ADD)


FORGETFUL = [
    ("adds", 1),
    ("adds_many", 1),
    ("copies", 1),
    ("sends", 1),
    ("adds_after_read", 1),
    ("adds_by_helper", 1),
    ("adds_because_of_error", 1),
]


@pytest.mark.parametrize(("method", "writes"), FORGETFUL)
def test_discarded(
    method: str,
    writes: int,
    pool: ConnectionPool[Any],
    dsn: str,
    reports: Reports,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Writes that the pool rolls back are reported, of the function that began the transaction."""
    getattr(Orders(pool), method)()
    leak = reports.leak()
    function = "adds" if method == "adds_because_of_error" else method

    assert (leak.function.rpartition(".")[2], leak.evidence) == (function, {"discarded"})
    assert (leak.certainty, leak.attributes["connleak.resource"]) == ("confirmed", "transaction")
    assert [(each[0], each[1], each[3]) for each in ended(reports)] == [(function, "discarded", writes)]
    assert "hint: use `with connection.transaction():`" in caplog.text
    (hold,) = reports.telemetry.spans("hold")
    assert dict(hold.attributes or {})["connleak.transaction.outcome"] == "discarded"
    assert added(dsn) == 0
    assert open_holds() == []


def test_discarded_by_close(dsn: str, reports: Reports) -> None:
    """The end of a direct connection is the end of its transaction."""
    connection = psycopg.connect(dsn)
    connection.execute(ADD)
    connection.close()

    assert reports.leak().evidence == {"discarded"}
    assert added(dsn) == 0


# --- what is no leak ---------------------------------------------------------------------------------------


class Careful(Orders):
    """Methods that look like those, and are right."""

    def fails(self) -> None:
        """An error leaves the block of the connection: it is the reason."""
        with self.connection() as connection:
            connection.execute(ADD)
            raise OutOfStock

    def fails_within(self) -> None:
        """The same with the pool's own block, which rolls back."""
        with self.pool.connection() as connection:
            connection.execute(ADD)
            raise OutOfStock

    def fails_and_puts(self) -> None:
        """The connection is given back where the error is handled."""
        connection = self.pool.getconn()
        try:
            connection.execute(ADD)
            raise OutOfStock
        except OutOfStock:
            self.pool.putconn(connection)
            raise

    def refuses(self) -> None:
        """The server has aborted the transaction."""
        with self.connection() as connection:
            connection.execute(ADD)
            with contextlib.suppress(psycopg.Error):
                connection.execute(WRONG)

    def reads(self) -> None:
        """Nothing is lost."""
        with self.connection() as connection:
            connection.execute("SELECT * FROM customers FOR UPDATE")

    def prepares(self) -> None:
        """The server keeps it."""
        with self.connection() as connection:
            connection.tpc_begin("orders")
            connection.execute(ADD)
            connection.tpc_prepare()

    def adds(self) -> None:
        """The pool's own block commits."""
        with self.pool.connection() as connection:
            connection.execute(ADD)

    def adds_directly(self) -> None:
        """So does that of a connection."""
        with psycopg.connect(str(self.pool.conninfo)) as connection:
            connection.execute(ADD)


LOOKS_LIKE_IT = [
    ("fails", "rolled_back", 0),
    ("fails_within", "rolled_back", 0),
    ("fails_and_puts", "rolled_back", 0),
    ("refuses", "rolled_back", 0),
    ("reads", "rolled_back", 0),
    ("prepares", "open", 0),
    ("adds", "committed", 1),
    ("adds_directly", "committed", 1),
]


@pytest.mark.parametrize(("method", "outcome", "rows"), LOOKS_LIKE_IT)
def test_no_leak(
    method: str, outcome: str, rows: int, pool: ConnectionPool[Any], dsn: str, reports: Reports
) -> None:
    """What ends because of an error, or loses nothing, is no leak."""
    with contextlib.suppress(OutOfStock):
        getattr(Careful(pool), method)()
    reports.none()

    assert [each[:2] for each in ended(reports)] == [(method, outcome)]
    assert open_holds() == []
    assert added(dsn) == rows
    if method == "prepares":
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("ROLLBACK PREPARED 'orders'")


def test_broken(pool: ConnectionPool[Any], dsn: str, reports: Reports) -> None:
    """What the server has ended nobody could have committed."""
    connection = pool.getconn()
    connection.execute(ADD)
    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    pool.putconn(connection)
    reports.none()

    assert [each[1] for each in ended(reports)] == ["rolled_back"]


def test_broken_unseen(pool: ConnectionPool[Any], dsn: str, reports: Reports) -> None:
    """Who does not notice that the server has ended it has not committed either: that is reported."""

    def leave() -> None:
        connection = pool.getconn()
        connection.execute(ADD)
        with psycopg.connect(dsn, autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        pool.putconn(connection)

    leave()

    assert reports.leak().evidence == {"discarded"}


def test_deferred_constraint(dsn: str, reports: Reports) -> None:
    """A commit that fails has rolled back."""
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE parts (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
        connection.commit()
        connection.execute("INSERT INTO parts VALUES (1), (1)")
        with pytest.raises(psycopg.errors.UniqueViolation):
            connection.commit()
    reports.none()

    assert [each[1] for each in ended(reports)] == ["committed", "rolled_back"]


# --- left open ---------------------------------------------------------------------------------------------


def test_begun_for_the_caller(dsn: str, reports: Reports) -> None:
    """A function may begin what its caller commits, who has the connection."""

    def begins() -> None:
        connection.execute(ADD)

    with psycopg.connect(dsn) as connection:
        begins()
        reports.none()

    assert [each[:2] for each in ended(reports)] == [("begins", "committed")]


def test_kept_in_module(dsn: str, reports: Reports) -> None:
    """A worker's own connection lives on; a transaction that its thread leaves behind is a leak."""

    def works() -> None:
        shelf[0].execute(ADD)

    shelf.append(psycopg.connect(dsn))
    thread = threading.Thread(target=works)
    thread.start()
    thread.join()
    leak = reports.leak()
    connection = shelf.pop()
    connection.rollback()
    connection.close()

    assert leak.function.rpartition(".")[2] == "works"
    assert leak.attributes["connleak.resource"] == "transaction"
    assert leak.certainty == "possible"
    assert "thread_ended" in leak.evidence
    assert reports.recovery().id == leak.id


def test_overdue(dsn: str, instrument: Instrument, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that lies idle in a transaction is reported; with it the transaction, in one report."""
    reports = instrument(overdue_after=SOON)
    with psycopg.connect(dsn) as connection:
        connection.execute(ADD)
        leak = reports.leak()

    assert leak.evidence == {"overdue"}
    assert "transaction open, 1 write" in caplog.text
    assert reports.recovery().id == leak.id


def test_waits_for_notifications(dsn: str, instrument: Instrument) -> None:
    """Who waits for notifications is busy, however long it takes."""
    reports = instrument(overdue_after=SOON)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("LISTEN orders")
        assert list(connection.notifies(timeout=3 * SOON)) == []
        reports.none(after=0)


# --- asyncio -----------------------------------------------------------------------------------------------


class AsyncOrders:
    """A repository of coroutine functions."""

    def __init__(self, pool: AsyncConnectionPool[Any]) -> None:
        self.pool = pool

    async def forgets(self) -> None:
        """Does not commit."""
        connection = await self.pool.getconn()
        try:
            await connection.execute(ADD)
        finally:
            await self.pool.putconn(connection)

    async def fails(self) -> None:
        """An error is the reason."""
        connection = await self.pool.getconn()
        try:
            await connection.execute(ADD)
            raise OutOfStock
        finally:
            await self.pool.putconn(connection)

    async def adds(self) -> None:
        """The pool's block commits."""
        async with self.pool.connection() as connection:
            await connection.execute(ADD)

    async def adds_in_blocks(self) -> None:
        """A block, and a savepoint."""
        async with self.pool.connection() as connection, connection.transaction():
            await connection.execute(ADD)
            async with connection.transaction():
                await connection.execute(ADD)

    async def is_cancelled(self) -> None:
        """Its call is cancelled, by the clock, and the server aborts the transaction."""
        connection = await self.pool.getconn()
        await connection.execute(ADD)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await connection.execute("SELECT pg_sleep(10)")
        await self.pool.putconn(connection)


ASYNC = [
    ("forgets", [("forgets", "discarded", 1, 1)], 0),
    ("fails", [("fails", "rolled_back", 1, 1)], 0),
    ("adds", [("adds", "committed", 2, 1)], 1),
    ("adds_in_blocks", [("adds_in_blocks", "committed", 6, 2)], 2),
    ("is_cancelled", [("is_cancelled", "rolled_back", 2, 1)], 0),
]


@pytest.mark.parametrize(("method", "expected", "rows"), ASYNC)
def test_async(
    method: str,
    expected: list[tuple[str, str, int, int]],
    rows: int,
    dsn: str,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """The same in coroutine functions: only the forgotten commit is a leak."""

    async def use_it() -> None:
        async with AsyncConnectionPool(dsn, min_size=1, max_size=1, open=False) as pool:
            with contextlib.suppress(OutOfStock):
                await getattr(AsyncOrders(pool), method)()

    runner.run(use_it())
    if expected[0][1] == "discarded":
        assert (reports.leak().function.rpartition(".")[2], reports.leak().evidence) == (
            method,
            {"discarded"},
        )
    reports.no_more()

    assert ended(reports) == expected
    assert added(dsn) == rows


def test_released_in_another_task(dsn: str, runner: asyncio.Runner, reports: Reports) -> None:
    """A task of its own may close the connection, where there is no exception: there was one all the same."""

    async def fails() -> None:
        connection = await psycopg.AsyncConnection.connect(dsn)
        try:
            await connection.execute(ADD)
            raise OutOfStock
        finally:
            await asyncio.shield(connection.close())

    with pytest.raises(OutOfStock):
        runner.run(fails())
    reports.none()

    assert [each[1] for each in ended(reports)] == ["rolled_back"]
