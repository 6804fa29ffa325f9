"""Transactions of sqlite3 and aiosqlite: when they begin, how they end, and which writes are discarded."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiosqlite
import pytest
from opentelemetry.instrumentation.sqlite3 import SQLite3Instrumentor

from otel_connleak import open_holds
from otel_connleak.drivers.sqlite3 import begins
from tests.adapters.conftest import Instrument
from tests.support.launcher import APPS, environment, run
from tests.support.queried import instrumented
from tests.support.reports import GRACE, Reports
from tests.support.telemetry import Telemetry
from tests.support.transactions import ended

connect_before = sqlite3.connect
"""The function as it was before the instrumentation started."""
ADD = "INSERT INTO customers VALUES ('new')"
AGAIN = "INSERT INTO customers VALUES ('ada')"
"""Is refused."""
COUNT = "SELECT count(*) FROM customers"
READ_ONLY: list[tuple[str, str, int, int]] = []
"""No transaction has ended, because there was none."""


@pytest.fixture
def path(tmp_path: Path) -> str:
    """The file of a database with a table ``customers`` of one row."""
    path = str(tmp_path / "shop.db")
    with contextlib.closing(connect_before(path)) as connection:
        connection.execute("CREATE TABLE customers (name TEXT UNIQUE)")
        connection.execute("INSERT INTO customers VALUES ('ada')")
        connection.commit()
    return path


def added(path: str) -> int:
    """How many customers there are beyond the first."""
    with contextlib.closing(connect_before(path)) as connection:
        (count,) = connection.execute(COUNT).fetchone()
    return int(count) - 1


# --- ways to end one ---------------------------------------------------------------------------------------


def commits(connection: Any) -> None:
    """Writes, and commits."""
    connection.execute(ADD)
    connection.commit()


def commits_by_statement(connection: Any) -> None:
    """The same, in words."""
    connection.cursor().execute(ADD)
    connection.execute("COMMIT")


def commits_many(connection: Any) -> None:
    """Many rows are one statement."""
    connection.executemany("INSERT INTO customers VALUES (?)", [("new",), ("newer",)])
    connection.commit()


def rolls_back(connection: Any) -> None:
    """Writes, and thinks better of it."""
    connection.execute(ADD)
    connection.rollback()


def block(connection: Any) -> None:
    """The block commits."""
    with connection:
        connection.execute(ADD)


def block_left_by_error(connection: Any) -> None:
    """The block rolls back."""
    with contextlib.suppress(LookupError), connection:
        connection.execute(ADD)
        raise LookupError


def savepoint(connection: Any) -> None:
    """A savepoint in a transaction is none."""
    connection.execute(ADD)
    connection.execute("SAVEPOINT here")
    connection.execute("INSERT INTO customers VALUES ('newer')")
    connection.execute("RELEASE here")
    connection.commit()


def outermost_savepoint(connection: Any) -> None:
    """A savepoint outside of a transaction begins one, and its end commits."""
    connection.isolation_level = None
    connection.execute("SAVEPOINT here")
    connection.execute(ADD)
    connection.execute("RELEASE here")


def script(connection: Any) -> None:
    """A script first commits."""
    connection.execute(ADD)
    connection.executescript("CREATE TABLE parts (name TEXT); INSERT INTO parts VALUES ('bolt');")


def by_hand(connection: Any) -> None:
    """Without sqlite3's own control."""
    connection.isolation_level = None
    connection.execute("BEGIN")
    connection.execute(ADD)
    connection.execute("END")


@pytest.mark.parametrize(
    ("use", "outcome", "statements", "writes", "rows"),
    [
        (commits, "committed", 2, 1, 1),
        (commits_by_statement, "committed", 2, 1, 1),
        (commits_many, "committed", 2, 1, 2),
        (rolls_back, "rolled_back", 2, 1, 0),
        (block, "committed", 2, 1, 1),
        (block_left_by_error, "rolled_back", 2, 1, 0),
        (savepoint, "committed", 5, 2, 2),
        (outermost_savepoint, "committed", 3, 1, 1),
        (script, "committed", 1, 1, 1),
        (by_hand, "committed", 3, 1, 1),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_end(
    use: Callable[[Any], None],
    outcome: str,
    statements: int,
    writes: int,
    rows: int,
    path: str,
    reports: Reports,
) -> None:
    """One transaction, of the function whose statement has begun it; nothing to report."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        use(connection)

    assert ended(reports) == [(use.__name__, outcome, statements, writes)]
    assert added(path) == rows
    assert open_holds() == []
    reports.none()


def test_no_transaction(path: str, reports: Reports) -> None:
    """Neither reads nor what is committed at once are a transaction."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(COUNT).fetchall()
        connection.commit()
        with connection:
            connection.execute(COUNT).fetchall()
        connection.execute("CREATE TABLE parts (name TEXT)")
        connection.isolation_level = None
        connection.execute(ADD)
    with contextlib.closing(sqlite3.connect(path, autocommit=True)) as connection:
        connection.execute("INSERT INTO customers VALUES ('newer')")

    assert ended(reports) == READ_ONLY
    assert added(path) == 2
    reports.none()


# --- forgotten commits -------------------------------------------------------------------------------------


def forgets(connection: sqlite3.Connection) -> None:
    """Adds a customer, and nobody commits."""
    connection.execute(ADD)


def test_forgotten_commit(path: str, reports: Reports, caplog: pytest.LogCaptureFixture) -> None:
    """A write that was lost by ``close()`` is reported at once, with the function that wrote."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        forgets(connection)
    leak = reports.leak()

    assert leak.function.endswith("forgets")
    assert "discarded" in leak.evidence
    assert leak.certainty == "confirmed"
    assert leak.attributes["connleak.resource"] == "transaction"
    assert leak.attributes["connleak.transaction.outcome"] == "discarded"
    assert "use `with connection:`" in caplog.text
    assert ended(reports) == [("forgets", "discarded", 1, 1)]
    (hold,) = reports.telemetry.spans("hold")
    assert (hold.attributes or {})["connleak.transaction.outcome"] == "discarded"
    assert added(path) == 0


def test_in_memory(reports: Reports) -> None:
    """A database in memory goes with its connection: no commit would have kept what was written."""
    with contextlib.closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE customers (name TEXT UNIQUE)")
        forgets(connection)

    assert ended(reports) == [("forgets", "rolled_back", 1, 1)]
    reports.none()


@pytest.mark.parametrize("autocommit", [False, sqlite3.LEGACY_TRANSACTION_CONTROL])
def test_forgotten_after_commit(autocommit: Any, path: str, reports: Reports) -> None:
    """A commit is no excuse for what is written later."""
    with contextlib.closing(sqlite3.connect(path, autocommit=autocommit)) as connection:
        commits(connection)
        connection.execute("INSERT INTO customers VALUES ('newer')")
    leak = reports.leak()

    assert leak.function.endswith("test_forgotten_after_commit")
    assert [outcome for _, outcome, *_ in ended(reports)] == ["committed", "discarded"]
    assert added(path) == 1


def test_script_leaves_one_open(path: str, reports: Reports) -> None:
    """What was written before a script is committed by it; what the script itself has begun is lost."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(ADD)
        connection.executescript("BEGIN; INSERT INTO customers VALUES ('newer');")
    reports.leak()

    assert [(outcome, writes) for _, outcome, _, writes in ended(reports)] == [
        ("committed", 1),
        ("discarded", 1),
    ]
    assert added(path) == 1


def test_failed_write(path: str, reports: Reports) -> None:
    """A statement that was refused has begun a transaction, and has written nothing that could be lost."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        with pytest.raises(sqlite3.IntegrityError):
            connection.execute(AGAIN)
        assert connection.in_transaction

    assert ended(reports) == [("test_failed_write", "rolled_back", 1, 0)]
    reports.none()


def test_exception(path: str, reports: Reports) -> None:
    """An exception that closes the connection is the reason for what is lost."""
    with contextlib.suppress(LookupError), contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(ADD)
        raise LookupError

    assert ended(reports) == [("test_exception", "rolled_back", 1, 1)]
    reports.none()


def test_refused_close(path: str, reports: Reports) -> None:
    """A thread that may not use the connection ends nothing, and is told so by sqlite3."""
    connection = sqlite3.connect(path)
    connection.execute(ADD)
    errors: list[Exception] = []

    def close() -> None:
        for call in (connection.commit, connection.rollback, connection.close):
            try:
                call()
            except sqlite3.ProgrammingError as error:
                errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    reports.none()
    connection.commit()
    connection.close()
    connection.close()

    assert len(errors) == 3
    assert all("can only be used in that same thread" in str(error) for error in errors)
    assert [(outcome, writes) for _, outcome, _, writes in ended(reports)] == [("committed", 1)]
    assert reports.hold_names() == ["test_refused_close"]


def test_left_open(path: str, reports: Reports) -> None:
    """A function that returns in a transaction, on a connection that others keep, has not ended it."""
    connection = sqlite3.connect(path)
    threading.Thread(target=int).start()
    forgets(connection)
    reports.none()  # this function can still commit
    connection.commit()
    connection.close()

    assert ended(reports) == [("forgets", "committed", 2, 1)]


def test_overdue(path: str, instrument: Instrument) -> None:
    """A transaction that lies idle keeps all others from writing."""
    reports = instrument(overdue_after=GRACE)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute(ADD)
        leak = reports.leak()
        connection.commit()

    assert "overdue" in leak.evidence
    assert leak.attributes["connleak.transaction.outcome"] == "open"


def test_at_exit() -> None:
    """What a process has written and not committed when it ends is reported, if nobody else is to be told."""
    finished = run(APPS / "uncommitted.py", env=environment())

    assert finished.returncode == 0
    lines = [line for line in finished.stderr.splitlines() if "leak (" in line]
    assert len(lines) == 1, finished.stderr
    assert "transaction leak (possible, function_exited, process_exited)" in lines[0]
    assert "add_customer" in lines[0]


# --- the modes of Python 3.12 ------------------------------------------------------------------------------


def test_always_in_transaction(path: str, reports: Reports) -> None:
    """With ``autocommit=False`` SQLite is always in a transaction; ours begins with the first statement."""
    with contextlib.closing(sqlite3.connect(path, autocommit=False)) as connection:
        assert len(open_holds()) == 1
        for use in (rolls_back, commits):
            use(connection)
            assert connection.in_transaction
            assert len(open_holds()) == 1
        connection.commit()
        with connection:
            connection.execute(COUNT)
        connection.executescript("DELETE FROM customers;")
        connection.rollback()

    assert ended(reports) == [
        ("rolls_back", "rolled_back", 2, 1),
        ("commits", "committed", 2, 1),
        ("test_always_in_transaction", "committed", 2, 0),
        ("test_always_in_transaction", "rolled_back", 2, 1),
    ]
    reports.none()


def test_autocommit(path: str, reports: Reports) -> None:
    """With ``autocommit=True`` neither ``commit()`` nor ``with`` does anything, also if there is one."""
    with contextlib.closing(sqlite3.connect(path, autocommit=True)) as connection:
        connection.execute("BEGIN")
        with connection:
            connection.execute(ADD)
        connection.commit()
        connection.rollback()
        assert connection.in_transaction
        connection.execute("COMMIT")

    assert ended(reports) == [("test_autocommit", "committed", 6, 1)]
    assert added(path) == 1
    reports.none()


@pytest.mark.parametrize(
    ("statement", "settings", "expected"),
    [
        (ADD, {}, True),
        (" -- new\n/* and */ update customers set name = ''", {}, True),
        (COUNT, {}, False),
        ("CREATE TABLE parts (name TEXT)", {}, False),
        ("WITH new AS (SELECT 'new') INSERT INTO customers SELECT * FROM new", {}, False),
        (ADD, {"isolation_level": None}, False),
        (ADD, {"autocommit": True}, False),
        (COUNT, {"autocommit": False}, True),
    ],
)
def test_begins(statement: str, settings: dict[str, Any], expected: bool, path: str) -> None:
    """What is said before a statement is what SQLite says after it."""
    with contextlib.closing(sqlite3.connect(path, **settings)) as connection:
        assert begins(connection, statement) is expected
        connection.execute(statement)
        assert connection.in_transaction is expected
        connection.rollback()


def test_begins_in_a_foreign_thread(path: str) -> None:
    """A thread for which the connection is not gets no answer, and no exception."""
    answers: list[bool] = []
    with contextlib.closing(sqlite3.connect(path)) as connection:
        thread = threading.Thread(target=lambda: answers.append(begins(connection, ADD)))
        thread.start()
        thread.join()

    assert answers == [False]
    assert begins(connection, ADD) is False, "it is closed"


def test_query_spans(path: str, telemetry: Telemetry) -> None:
    """The spans of queries are within that of the transaction, also the one of the first statement."""
    tracer = telemetry.tracer_provider.get_tracer("application")
    with (
        instrumented(telemetry, SQLite3Instrumentor),
        telemetry.instrumented(),
        tracer.start_as_current_span("request"),
        contextlib.closing(sqlite3.connect(path)) as connection,
    ):
        cursor = connection.cursor()
        cursor.execute(COUNT)
        cursor.execute(ADD)
        connection.commit()
    (transaction,) = telemetry.spans("transaction")
    (hold,) = telemetry.spans("hold")
    parents = {span.name: span.parent.span_id for span in telemetry.spans() if span.parent is not None}

    assert transaction.context is not None
    assert hold.context is not None
    assert parents["INSERT"] == transaction.context.span_id
    assert parents["SELECT"] == hold.context.span_id
    assert parents[transaction.name] == hold.context.span_id


# --- aiosqlite ---------------------------------------------------------------------------------------------


async def commits_async(connection: aiosqlite.Connection) -> None:
    """Writes, and commits."""
    await connection.execute(ADD)
    await connection.commit()


async def rolls_back_async(connection: aiosqlite.Connection) -> None:
    """Writes, and thinks better of it."""
    cursor = await connection.cursor()
    await cursor.execute(ADD)
    await connection.rollback()


async def inserts_async(connection: aiosqlite.Connection) -> None:
    """A shortcut of aiosqlite's."""
    await connection.execute_insert(ADD)
    await connection.execute("COMMIT")


async def scripts_async(connection: aiosqlite.Connection) -> None:
    """A script commits first."""
    await connection.execute(ADD)
    await connection.executescript("CREATE TABLE parts (name TEXT)")


async def forgets_async(connection: aiosqlite.Connection) -> None:
    """Adds a customer, and nobody commits."""
    await connection.execute(ADD)


@pytest.mark.parametrize(
    ("use", "outcome", "rows"),
    [
        (commits_async, "committed", 1),
        (rolls_back_async, "rolled_back", 0),
        (inserts_async, "committed", 1),
        (scripts_async, "committed", 1),
        (forgets_async, "discarded", 0),
    ],
)
def test_aiosqlite(
    use: Callable[[aiosqlite.Connection], Any],
    outcome: str,
    rows: int,
    path: str,
    runner: asyncio.Runner,
    reports: Reports,
) -> None:
    """The same is seen through aiosqlite; what is read only is no transaction."""

    async def work() -> None:
        async with aiosqlite.connect(path) as connection:
            await connection.execute_fetchall(COUNT)
            await use(connection)

    runner.run(work())

    assert [(function, how) for function, how, *_ in ended(reports)] == [(use.__name__, outcome)]
    assert added(path) == rows
    if outcome == "discarded":
        leak = reports.leak()
        assert leak.function.endswith("forgets_async")
        assert "discarded" in leak.evidence
    else:
        reports.none()
